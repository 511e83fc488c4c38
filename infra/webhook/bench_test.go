package webhook

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func BenchmarkSend(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	b.Cleanup(srv.Close)
	c := clientOf(b, nil, loopback...)
	r := delivery(srv.URL)
	r.Body = make([]byte, 1024)
	r.Secrets = []string{Secret(nil, "2"), Secret(nil, "1")}
	r.Header = http.Header{"Ce-Id": {r.ID}, "Ce-Type": {"order.paid"}}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if result := c.Send(b.Context(), r); !result.OK() {
				b.Fatal(result)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if result := c.Send(b.Context(), r); !result.OK() {
					b.Error(result)
					return
				}
			}
		})
	})
}
