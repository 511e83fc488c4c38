package delivery

import (
	"encoding/base64"
	"encoding/json"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/cloudevents"
)

// How a payload, which is always JSON, holds the data of a CloudEvent that came in with
// other data, as a header of the message says.
const (
	headerDataEncoding = "data-encoding"
	encodingText       = "text"
	encodingBase64     = "base64"
	encodingNone       = "none"
)

// bodyOf is a message's payload, or the data that it holds. A payload that is not what
// its header says is sent as it is.
func bodyOf(m commands.Pulled) (body []byte, isDecoded bool) {
	encoding := m.Meta.Headers[headerDataEncoding]
	if encoding == encodingNone && string(m.Payload) == "null" {
		return nil, true
	}
	// JSON is never held as a string.
	if cloudevents.IsJSON(m.Meta.ContentType) || m.Meta.ContentType == "" || (encoding != encodingText && encoding != encodingBase64) {
		return m.Payload, false
	}
	var text string
	if err := json.Unmarshal(m.Payload, &text); err != nil { //nolint:forbidigo // the log's own, not a client's
		return m.Payload, false
	}
	if encoding == encodingText {
		return []byte(text), true
	}
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return m.Payload, false
	}
	return data, true
}
