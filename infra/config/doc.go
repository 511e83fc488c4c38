// Package config reads the service's configuration from the environment.
//
// It guarantees that a value it cannot use is an error that names the variable and
// what would be allowed, that all such errors come at once, and that a secret's
// value is in no error. Any variable NAME may be given as NAME_FILE, a file that
// holds the value (as Docker and Kubernetes mount secrets).
//
// It imports caarlos0/env and the standard library.
package config
