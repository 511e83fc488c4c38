package filter

import "testing"

// small is a message with a payload of 200 bytes.
func small() Message {
	return Message{
		Key:     "customer-7",
		Headers: map[string]string{"type": "order", "source": "shop"},
		Payload: []byte(`{"amount":11,"currency":"EUR","customer":{"id":"c1","country":"LV"},"items":[{"sku":"AB-1","n":1},{"sku":"AB-2","n":2}],"created":"2026-01-31T23:00:00Z","note":"Please leave it at the door...."}`),
	}
}

func BenchmarkMatch(b *testing.B) {
	for name, raw := range map[string]string{
		"cel headers":          celFilter(`headers['type'] == 'order'`),
		"cel headers, false":   celFilter(`headers['type'] == 'refund' && payload.amount > 10`),
		"cel payload":          celFilter(`headers['type'] == 'order' && payload.amount > 10`),
		"cel exists":           celFilter(`payload.items.exists(i, i.sku == 'AB-2')`),
		"cel error":            celFilter(`payload.nope == 1`),
		"equal headers":        `{"headers":{"type":"order"}}`,
		"equal payload":        `{"headers":{"type":"order"},"payload":{"customer":{"country":"LV"}}}`,
		"equal payload, false": `{"payload":{"amount":12}}`,
	} {
		f, m := mustCompile(b, raw), small()
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f.Match(m)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	raw := []byte(celFilter(`headers['type'] == 'order' && payload.amount > 10`))
	for b.Loop() {
		if _, err := Compile(raw); err != nil {
			b.Fatal(err)
		}
	}
}
