package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/events"
	"github.com/tallymq/tallymq/queries"
)

// storedMessage is a tenant's message as the read side has it, or a refusal.
func (s *service) storedMessage(ctx context.Context, tenantID, messageID string) (commands.StoredMessage, error) {
	m, err := queries.AcceptedMessage(ctx, s.reader(tenantID, false), tenantID, messageID)
	if errors.Is(err, queries.ErrNotFound) {
		return commands.StoredMessage{}, &commands.Refusal{Code: commands.CodeMessageNotFound, Reason: fmt.Sprintf("no message %q", messageID)}
	}
	if err != nil {
		return commands.StoredMessage{}, err //nolint:wrapcheck // says what it does
	}
	out := commands.StoredMessage{
		MessageID: m.MessageID, TopicID: m.TopicID, TenantID: m.TenantID, Shard: m.Shard, Position: events.Position(m.Position),
		Partition: m.Partition, Offset: events.OffsetNever,
	}
	switch {
	case m.Offset != nil:
		out.Offset = *m.Offset
	case m.Status == "scheduled":
		out.Offset = events.OffsetScheduled
	}
	if m.Key != nil {
		out.Key = *m.Key
	}
	if m.PayloadSize != nil {
		out.PayloadBytes = *m.PayloadSize
	}
	if m.ErasedAt != nil {
		out.ErasedAt = *m.ErasedAt
	}
	return out, nil
}
