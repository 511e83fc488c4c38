// Package rebuild serves projections over HTTP: how far they are, and the request to
// fold one anew. The read tables are all tenants', so only the platform's own callers
// get in: those with the service token, and of the platform's tenant those who may
// administrate.
//
// It imports echo and package web.
package rebuild
