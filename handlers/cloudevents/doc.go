// Package cloudevents turns a request in the CloudEvents 1.0 HTTP protocol binding
// (binary, structured and batched mode, JSON) into messages.
//
// It guarantees that a consumer can rebuild the event from its message:
//
//   - An attribute or extension NAME is the header ce-NAME, in the type's canonical
//     string form; datacontenttype is the message's content type. There is no other
//     header ce-….
//   - The data is the payload, as the header data-encoding says. Without that header
//     the payload is the data itself, JSON, byte for byte as it came. With "text" it
//     is a string that holds the data's text, with "base64" a string that holds the
//     data's bytes in base64 (RFC 4648, section 4), and with "none" the event has no
//     data and the payload is null.
//   - An extension partitionkey is also the message's key, and a well-formed
//     traceparent its trace.
//
// JSON is what is declared as */json or */*+json, and in structured mode what
// declares nothing, which then becomes application/json. Data in binary mode that
// declares nothing becomes application/octet-stream. Other data is text where it is a
// string in structured mode, or declared as text/* and valid UTF-8 without NUL; the
// rest is base64. An empty body, or an empty data_base64, is no data.
//
// It is as strict as the rest of the API, and follows the specification where that
// has a say: header values are unquoted and percent-decoded once, null attributes are
// unset, names are 1 to 20 of [a-z0-9], extensions are strings, booleans or 32-bit
// integers. It is lenient in one thing, as clients in use are: UTF-8 in a header
// value need not be percent-encoded.
//
// What leaves as CloudEvents has its form here too: [Lifecycle] for the log's events, and
// the encoding of header values.
//
// It imports the standard library, echo, go-json-experiment and the shared HTTP edge.
package cloudevents
