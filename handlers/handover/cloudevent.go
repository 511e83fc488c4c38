package handover

import (
	"bytes"
	"context"
	"fmt"

	"github.com/tallymq/tallymq/handlers/cloudevents"
)

// render returns events as CloudEvents' JSON batch. Their data leave byte for byte as
// the log has them, but for a payload that is encrypted there.
func (l *lifecycle) render(ctx context.Context, batch []cloudevents.Lifecycle) ([]byte, error) {
	var b bytes.Buffer
	for i, e := range batch {
		if l.f.cfg.OpenEvent != nil {
			data, err := l.f.cfg.OpenEvent(ctx, e.TenantID, e.Kind, e.Data)
			if err != nil {
				return nil, fmt.Errorf("open event %s: %w", e.ID, err)
			}
			e.Data = data
		}
		text, err := e.Append(nil)
		if err != nil {
			return nil, err //nolint:wrapcheck // says what it does
		}
		b.WriteByte("[,"[min(i, 1)])
		b.Write(text)
	}
	b.WriteByte(']')
	return b.Bytes(), nil
}
