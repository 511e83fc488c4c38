// Package internalapi serves the platform's own services: each route is a queue of the
// platform's tenant, or a view of one.
//
// It guarantees nothing of its own: routes say which queue is meant, and the command and
// query handlers that are handed in do the rest. It imports echo, package web and the
// standard library.
package internalapi
