package main

import (
	"context"
	"errors"
	"time"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/internalapi"
)

// platformPartitions is how many partitions the platform's queues have: keys are kept in
// order, and different ones need not wait for one another.
const platformPartitions = 4

// makePlatformQueues makes the queues of the internal API that are not there. Any
// number of instances may.
func (s *service) makePlatformQueues(ctx context.Context) {
	caller := commands.Caller{TenantID: s.cfg.PlatformTenant, Platform: true}
	for _, name := range internalapi.Queues() {
		for ctx.Err() == nil {
			_, _, err := s.dispatcher.CreateQueue(ctx, caller, commands.CreateQueue{ID: newID(), Name: name, PartitionCount: new(platformPartitions)})
			var refusal *commands.Refusal
			if err == nil || (errors.As(err, &refusal) && refusal.Code == commands.CodeConflict) {
				break
			}
			s.logger.Warn("make the platform's queues; trying again", "queue", name, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(prepareRetry):
			}
		}
	}
}
