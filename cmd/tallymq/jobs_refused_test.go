package main

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A replay waits for room in its target, however little there is, and leaves out what can
// never be published there.
func TestAReplayWaitsForRoom(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.QueueLengthMax = 130
	i := start(t, cfg, "")
	i.queue("orders", "")
	i.queue("copy", "")
	target := i.subscription("copy", "g", "")
	i.publishNumbers("orders", 100, 1)
	headers := map[string]string{}
	for n := range 64 {
		headers[fmt.Sprint("h", n)] = "x"
	}
	i.post("/publish", map[string]any{"queue": "orders", "payload": -1, "key": "k0", "headers": headers}).is(http.StatusCreated)
	for n := range 20 {
		i.post("/publish", map[string]any{"queue": "orders", "payload": 100 + n, "key": "k0"}).is(http.StatusCreated)
	}
	for n := range 120 {
		i.post("/publish", map[string]any{"queue": "copy", "payload": n - 120, "key": "k0"}).is(http.StatusCreated)
	}
	id := text(i.post("/queues/orders/replay", `{"queue":"copy"}`).is(http.StatusAccepted)["id"])
	eventually(t, "nothing comes", func() bool { return i.get("/jobs/" + id).is(http.StatusOK)["status"] == "running" })
	numbers := i.drain(target, 240)["k0"]
	require.True(t, slices.IsSorted(numbers), numbers)
	job := i.ended(id)
	require.Equal(t, []any{"done", 120.0, 1.0}, []any{job["status"], job["done"], job["failed"]}, job)
}
