package main

import (
	"fmt"
	"slices"
	"strings"
)

// The parts of the service that can run in processes of their own.
const (
	roleCommand   = "command"
	roleQuery     = "query"
	roleProjector = "projector"
	roleDelivery  = "delivery"
)

func allRoles() roles { return roles{roleCommand, roleQuery, roleProjector, roleDelivery} }

// roles are the parts that a process runs. command serves what changes something and
// what consumes, query what is asked, projector folds, and delivery moves retries that
// are due, expires leases and hands messages on.
type roles []string

// parseRoles reads --role.
func parseRoles(text string) (roles, error) {
	var out roles
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(allRoles(), name) {
			return nil, fmt.Errorf("--role: is %q; allowed: %s, separated by commas", name, strings.Join(allRoles(), ", "))
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

func (r roles) has(name string) bool { return slices.Contains(r, name) }

func (r roles) names() []string { return r }
