// Package webhook is the HTTP side of delivering a message to a tenant's endpoint: one
// signed POST, one [Result].
//
// It guarantees that
//   - no connection is made to an address that is not public, unless [Config.Allow]
//     names it: what is checked is the address that is dialled, not the name, so a name
//     that changes its address between two lookups gains nothing. Proxies of the
//     environment are not used, they would dial for us;
//   - a receiver sees at most one request per [Client.Send]. Redirects are not followed
//     and net/http does not repeat a request by itself;
//   - [Client.Send] returns within [Request.Timeout], whatever the receiver does. A
//     status line and headers in time are the answer: the body, of which at most
//     [AnswerBodyMax] bytes in at most [AnswerBodyTime] are read, changes nothing, and
//     nobody gets to see it;
//   - an error's text is one of a few short ones, of at most [ErrorTextMax] bytes, that
//     a tenant may read: it names no address, no URL and nothing the receiver said;
//   - deliveries are signed as the Standard Webhooks specification says (symmetric
//     signatures, v1), with several secrets while a tenant changes its own.
//
// What it does not do: retry, decide when to give up, bound how many deliveries one
// endpoint has under way. A host that is shared by many tenants has [ConnsPerHostMax]
// connections of HTTP/1.1 in all, so whoever calls bounds each endpoint by itself.
//
// It imports the standard library, code.dny.dev/ssrf and the Standard Webhooks library.
package webhook
