package auth

import (
	"fmt"
	"testing"
)

// BenchmarkVerify measures a token seen before, one seen for the first time, and a
// forged one.
func BenchmarkVerify(b *testing.B) {
	v := setup(b, 0)
	for _, s := range signers {
		token := s.token(nil, nil)
		forged := signer{s.kid, s.method, s.other}.token(nil, nil)
		v.requireGood(b, token)
		b.Run(s.method.Alg()+"/seen", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = v.Verify(b.Context(), token)
			}
		})
		b.Run(s.method.Alg()+"/new", func(b *testing.B) {
			// Forgetting all is a small part of checking one.
			set := v.keys.current()
			b.ReportAllocs()
			for b.Loop() {
				set.good.young = nil
				if _, err := v.Verify(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(s.method.Alg()+"/forged", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = v.Verify(b.Context(), forged)
			}
		})
	}
	b.Run("unknown kid", func(b *testing.B) {
		token := signer{"who", signers[0].method, rsaOther}.token(nil, nil)
		for b.Loop() {
			_, _ = v.Verify(b.Context(), token)
		}
	})
	b.Run("ES256/seen, parallel", func(b *testing.B) {
		var tokens []string
		for i := range 100 {
			tokens = append(tokens, signers[1].token(nil, map[string]any{"sub": fmt.Sprint(i)}))
		}
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				_, _ = v.Verify(b.Context(), tokens[i%len(tokens)])
			}
		})
	})
}
