package commands

import (
	"context"
	"fmt"
	"time"

	"github.com/tallymq/tallymq/events"
)

// EraseReasonMax is how many characters the reason of an erasure may have.
const EraseReasonMax = 500

// StoredMessage is a message as the read side has it.
type StoredMessage struct {
	MessageID, TopicID, TenantID string
	// Shard and Position are where the message was accepted.
	Shard    int
	Position events.Position
	// Partition and Offset are where it waits for consumers; Offset is one of the
	// events.Offset constants where it has none.
	Partition    int
	Offset       int64
	Key          string
	PayloadBytes int64
	// ErasedAt is when its payload was erased, zero for never.
	ErasedAt time.Time
}

// EraseMessage asks for a message's payload to be erased.
type EraseMessage struct {
	Message StoredMessage
	// Reason is why; it is kept in history.
	Reason string
}

// Erased says what became of an erasure.
type Erased struct {
	Receipt Receipt
	At      time.Time
	// Discarded is how many deliveries of the message will not come about.
	Discarded int64
}

// EraseMessage takes a message's payload out of every store. Consumer groups that have not
// settled the message do not get it any more: that is counted as if it had been purged. An
// erased message stays erased, whoever asks again.
func (d *Dispatcher) EraseMessage(ctx context.Context, caller Caller, cmd EraseMessage) (Erased, error) {
	m := cmd.Message
	var v check
	v.short(cmd.Reason, "reason", EraseReasonMax)
	if err := v.refusal(); err != nil {
		return Erased{}, err
	}
	if m.TenantID != caller.TenantID {
		return Erased{}, refuse(CodeMessageNotFound, "no message %q", brief(m.MessageID))
	}
	if !m.ErasedAt.IsZero() {
		return Erased{Receipt: Receipt{Position: m.Position, Duplicate: true, Folded: true}, At: m.ErasedAt}, nil
	}
	out, err := d.appendOne(ctx, m.Shard, events.Append{
		ID: d.cfg.NewID(), TenantID: m.TenantID, Meta: d.adminMeta(caller),
		Event: events.MessageErased{
			MessageID: m.MessageID, TopicID: m.TopicID, Entry: fmt.Sprintf("%d-%d", m.Position.Ms(), m.Position.Seq()), PayloadBytes: m.PayloadBytes, Reason: cmd.Reason,
		},
		Erase: events.EraseFrom{Partition: m.Partition, Offset: m.Offset, Key: m.Key},
	})
	if err != nil {
		return Erased{}, err
	}
	switch out.Status {
	case events.StatusNotScheduled:
		return Erased{}, refuse(CodeUnavailable, "message %q is being published or cancelled; try again", m.MessageID)
	case events.StatusTooMany:
		return Erased{}, refuse(CodeUnavailable, "message %q would have to be looked for among more than 10000 that a group has yet to try again; try again later", m.MessageID)
	default:
	}
	receipt, err := d.await(ctx, caller, m.Shard, out)
	return Erased{Receipt: receipt, At: time.UnixMilli(out.Position.Ms()).UTC(), Discarded: out.Offset}, err
}

// Retain says that a topic does not keep some messages any longer.
type Retain struct {
	TopicID, TenantID string
	Shard             int
	// TopicVersion is the topic's version that the decision rests on, 0 for a deleted one.
	TopicVersion int64
	// Before is when they were published at the latest, From and UpTo bound their ids.
	Before     time.Time
	From, UpTo string
}

// Retain notes that messages were kept for as long as their topic keeps them, and returns
// once they are gone from the read side. isDone is false where the topic changed meanwhile,
// or a consumer group has not settled one of them: unsettledFrom is when the oldest of those
// was published.
func (d *Dispatcher) Retain(ctx context.Context, cmd Retain) (unsettledFrom time.Time, isDone bool, err error) {
	out, err := d.appendOne(ctx, cmd.Shard, events.Append{
		ID: d.cfg.NewID(), TenantID: cmd.TenantID, Meta: d.adminMeta(system), Version: cmd.TopicVersion, Guard: events.Guard{TopicVersion: cmd.TopicVersion},
		Event: events.TopicRetained{TopicID: cmd.TopicID, BeforeMs: cmd.Before.UnixMilli(), From: cmd.From, UpTo: cmd.UpTo},
	})
	if err != nil || out.Status != events.StatusAppended {
		if out.Offset > 0 {
			unsettledFrom = time.UnixMilli(out.Offset).UTC()
		}
		return unsettledFrom, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.AckTimeout)
	defer cancel()
	return time.Time{}, true, d.awaitFold(ctx, cmd.Shard, out.Run, out.Position)
}
