package feed

import (
	"context"
	"fmt"

	"github.com/tallymq/tallymq/handlers/cloudevents"
	"github.com/tallymq/tallymq/queries"
)

// show renders an event. Its data leave byte for byte as the log has them, but for a
// payload that is encrypted there.
func (h *Handlers) show(ctx context.Context, e queries.FeedEvent) ([]byte, error) {
	if h.deps.OpenEvent != nil {
		data, err := h.deps.OpenEvent(ctx, e.TenantID, e.Kind, e.Data)
		if err != nil {
			return nil, fmt.Errorf("open event %s: %w", e.ID, err)
		}
		e.Data = data
	}
	return cloudevents.Lifecycle(e).Append(nil) //nolint:wrapcheck // says what it does
}
