package keyring

import (
	"encoding/base64"
	"encoding/binary"
	"strings"
)

// The parts of a sealed payload: see the package's documentation.
const (
	version    = "mqenc1"
	opening    = `"` + version + `:`
	keyIDBytes = 16
	keyIDChars = 22
	saltBytes  = 16
	nonceBytes = 12
	tagBytes   = 16
	// head is what stands before the base64url of salt, nonce, ciphertext and tag.
	head     = len(opening) + keyIDChars + len(`:`)
	overhead = saltBytes + nonceBytes + tagBytes
)

type (
	// keyID is a tenant key's id as it is written.
	keyID [keyIDChars]byte
	// salt makes a writer key of a tenant key.
	salt [saltBytes]byte
)

// sealedEncoding has one text for each value; what it skips, the length finds.
var sealedEncoding = base64.RawURLEncoding.Strict()

// sealedChars are the characters of base64url.
var sealedChars = func() (is [256]bool) {
	for c := range is {
		is[c] = isAlphanumeric(byte(c)) || c == '-' || c == '_'
	}
	return is
}()

// SealedSize is the length of the sealed form of a payload of that many bytes.
func SealedSize(payloadBytes int) int {
	return head + sealedEncoding.EncodedLen(overhead+payloadBytes) + len(`"`)
}

// IsSealed tells whether raw has exactly the form that [Keyring.Seal] gives. It does
// not tell who made it.
func IsSealed(raw []byte) bool {
	_, body, ok := split(raw)
	return ok && len(body) >= sealedEncoding.EncodedLen(overhead) && canonical(body)
}

// split takes apart what has our frame. The body is not looked at.
func split(raw []byte) (id keyID, body []byte, ok bool) {
	if len(raw) <= head || string(raw[:len(opening)]) != opening || raw[head-1] != ':' || raw[len(raw)-1] != '"' {
		return id, nil, false
	}
	copy(id[:], raw[len(opening):])
	return id, raw[head : len(raw)-1], canonical(id[:])
}

// decode appends what the body says to dst.
func decode(dst, body []byte) (out []byte, ok bool) {
	out, err := sealedEncoding.AppendDecode(dst, body)
	n := len(out) - len(dst)
	return out, err == nil && n >= overhead && sealedEncoding.EncodedLen(n) == len(body)
}

// canonical tells whether text is base64url without padding whose unused bits are 0.
func canonical(text []byte) bool {
	for _, c := range text {
		if !sealedChars[c] {
			return false
		}
	}
	switch tail := text[len(text)-len(text)%4:]; len(tail) {
	case 0:
		return true
	case 2: // 12 bits for one byte
		return strings.IndexByte("AQgw", tail[1]) >= 0
	case 3: // 18 bits for two
		return strings.IndexByte("AEIMQUYcgkosw048", tail[2]) >= 0
	default:
		return false
	}
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// appendBinding appends the additional data of a payload.
func appendBinding(dst []byte, id keyID, b Binding) []byte {
	dst = append(dst, version...)
	dst = append(binary.BigEndian.AppendUint32(dst, keyIDChars), id[:]...)
	dst = appendField(dst, b.TenantID)
	dst = appendField(dst, b.TopicID)
	return appendField(dst, b.MessageID)
}

// appendField puts a text's length before it, so that no two lists of texts are alike.
func appendField(dst []byte, text string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(text))) //nolint:gosec // far below 4 GiB
	return append(dst, text...)
}
