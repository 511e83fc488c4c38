// Package auth checks the tokens (JWT, RFC 7519) that the platform's auth service
// gives to callers, with the keys (JWK set, RFC 7517) that it publishes.
//
// It guarantees that a token is taken only if a key of the current set signed it
// with that key's own algorithm (RS256, ES256 or EdDSA) and its claims hold now;
// that tokens cannot make it fetch keys more than once in [DemandInterval]; that an
// auth service that is away, hangs or answers rubbish leaves the last good set in
// use; that memory and waiting are bounded; and that no error or log line holds a
// token or a part of one.
//
// It imports golang-jwt/jwt, MicahParks/jwkset, go-json-experiment/json and
// google/uuid, nothing else of TallyMQ.
package auth
