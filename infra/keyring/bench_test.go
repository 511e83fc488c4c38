package keyring

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkKeyring measures a message's way in and out with the keys in memory.
func BenchmarkKeyring(b *testing.B) {
	s := setup(b)
	k := New(masters(b, masterEntry("k")), s.store, time.Now)
	for _, size := range []int{200, 64 << 10} {
		payload := bytes.Repeat([]byte("x"), size)
		sealed := seal(b, k, testBinding, payload)
		requireOpens(b, k, testBinding, sealed, payload)
		run := func(name string, work func() error) {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if err := work(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("seal", func() error { _, err := k.Seal(b.Context(), testBinding, payload); return err })
		run("open", func() error { _, err := k.Open(b.Context(), testBinding, sealed); return err })
		run("open, another process' first", func() error {
			k.writers.young, k.writers.old = nil, nil
			_, err := k.Open(b.Context(), testBinding, sealed)
			return err
		})
		run("is sealed", func() error {
			if !IsSealed(sealed) {
				return ErrTampered
			}
			return nil
		})
	}
	asked := s.store.asked.Load()
	require.Equal(b, int64(1), asked)
}
