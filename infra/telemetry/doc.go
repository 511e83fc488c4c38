// Package telemetry is how the service speaks to operators: its log, its metrics
// for Prometheus, the measured rates and latencies that every instance publishes
// and anyone can merge ([Window]), and its traces ([Tracing]).
//
// It guarantees that no message can flood the log: of each, a few a second are
// written, and how many were left out is said. It guarantees that memory and the
// number of time series are bounded whatever tenants, queues and consumer groups
// are called: past a limit they are counted together as "other". An observation
// neither blocks on I/O nor allocates. It writes no payload, token, query string
// or raw path anywhere.
//
// It imports the standard library and third-party packages (client_golang,
// OpenTelemetry, echo), nothing else of TallyMQ.
package telemetry
