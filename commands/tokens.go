package commands

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/tallymq/tallymq/events"
)

// delivery is what an ack token says: which attempt, of which subscription.
type delivery struct {
	SubscriptionID string
	MessageID      string
	Lease          events.Lease
	Partition      int
	Offset         int64
	Attempt        int
	LeasedAtMs     int64
	// AttemptsBefore is as in [events.Delivery].
	AttemptsBefore int
	// Unseen is as in [events.Leased].
	Unseen int
	// MaxRetryAttempts and RetryDelayMs are the message's own, nil for none.
	MaxRetryAttempts, RetryDelayMs *int
}

// tokens signs and reads ack tokens. A token names an attempt, so it settles that
// attempt and no other: it needs no expiry of its own, the lease has one.
//
// A token is base64url of: version 3, subscription and message id (16 bytes each),
// twelve varints, the first 16 bytes of an HMAC-SHA256 over all that.
type tokens struct{ key []byte }

const (
	tokenVersion  = 3
	tokenMACBytes = 16
	tokenCharsMax = 300
)

var errToken = errors.New("not a token of ours")

func (t tokens) seal(d delivery) string {
	b := make([]byte, 0, 128)
	b = append(b, tokenVersion)
	b = appendUUID(b, d.SubscriptionID)
	b = appendUUID(b, d.MessageID)
	ms, seq, _ := strings.Cut(d.Lease.EntryID, "-")
	for _, n := range []int64{
		int64(d.Lease.Stream), number(ms), number(seq), int64(d.Partition), d.Offset, int64(d.Attempt), d.LeasedAtMs,
		int64(d.AttemptsBefore), optional(d.MaxRetryAttempts), optional(d.RetryDelayMs), int64(d.Unseen), d.Lease.Life,
	} {
		b = binary.AppendVarint(b, n)
	}
	return base64.RawURLEncoding.EncodeToString(append(b, t.mac(b)...))
}

func (t tokens) open(token string) (delivery, error) {
	// Go's base64 would pass over line breaks.
	if len(token) > tokenCharsMax || strings.ContainsAny(token, "\r\n") {
		return delivery{}, errToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < 33+tokenMACBytes || b[0] != tokenVersion {
		return delivery{}, errToken
	}
	body := b[:len(b)-tokenMACBytes]
	if !hmac.Equal(t.mac(body), b[len(b)-tokenMACBytes:]) {
		return delivery{}, errToken
	}
	var n [12]int64
	rest := body[33:]
	for i := range n {
		v, size := binary.Varint(rest)
		if size <= 0 {
			return delivery{}, errToken
		}
		n[i], rest = v, rest[size:]
	}
	return delivery{
		SubscriptionID: uuidString(body[1:17]), MessageID: uuidString(body[17:33]),
		Lease:     events.Lease{Life: n[11], Stream: int(n[0]), EntryID: decimal(n[1]) + "-" + decimal(n[2])},
		Partition: int(n[3]), Offset: n[4], Attempt: int(n[5]), LeasedAtMs: n[6],
		AttemptsBefore: int(n[7]), MaxRetryAttempts: given(n[8]), RetryDelayMs: given(n[9]), Unseen: int(n[10]),
	}, nil
}

// optional is a number or none, as a number.
func optional(n *int) int64 {
	if n == nil {
		return -1
	}
	return int64(*n)
}

// given is the inverse of optional.
func given(n int64) *int {
	if n < 0 {
		return nil
	}
	return new(int(n))
}

func (t tokens) mac(body []byte) []byte {
	h := hmac.New(sha256.New, t.key)
	_, _ = h.Write(body)
	return h.Sum(nil)[:tokenMACBytes]
}

func appendUUID(b []byte, id string) []byte {
	raw, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	if err != nil || len(raw) != 16 {
		raw = make([]byte, 16)
	}
	return append(b, raw...)
}

func uuidString(raw []byte) string {
	s := hex.EncodeToString(raw)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
