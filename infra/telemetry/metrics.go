package telemetry

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of a scrape.
const (
	// ScrapesMax is how many scrapes are answered at once; more get a 503.
	ScrapesMax = 4
	// ScrapeTimeout bounds the answer to one.
	ScrapeTimeout = 10 * time.Second
)

// Config is what metrics are made of. The zero value works.
type Config struct {
	// Version is the build's, for mq_build_info.
	Version string
	// Gauges reads the state of queues, when a scrape asks; nil for none. It is
	// called at most once in GaugesEvery, and given GaugesTimeout.
	Gauges func(ctx context.Context) ([]QueueGauge, error)
	// GaugesEvery is [GaugesEvery] unless it is set.
	GaugesEvery time.Duration
	// GaugesTimeout is [GaugesTimeout] unless it is set.
	GaugesTimeout time.Duration
	// TopicsMax is [TopicsMax] unless it is set.
	TopicsMax int
	// GroupsMax is [GroupsMax] unless it is set.
	GroupsMax int
	// Now is time.Now unless it is set.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	if c.GaugesEvery <= 0 {
		c.GaugesEvery = GaugesEvery
	}
	if c.GaugesTimeout <= 0 {
		c.GaugesTimeout = GaugesTimeout
	}
	if c.TopicsMax <= 0 {
		c.TopicsMax = TopicsMax
	}
	if c.GroupsMax <= 0 {
		c.GroupsMax = GroupsMax
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Metrics are the instance's metrics in a registry of their own. All methods may be
// called at once from many goroutines, and cost well under a microsecond.
type Metrics struct {
	registry *prometheus.Registry
	bounds   *bounds
	vecs     vecs

	topics *table[pair, *topicSeries]
	groups *table[triple, *groupSeries]
	codes  *table[string, prometheus.Counter]
	shards *table[int, *shardSeries]
	routes *table[route, *routeSeries]
	// publish is mq_publish_duration_seconds.
	publish prometheus.Observer
}

// NewMetrics registers all metrics, those of the Go runtime and of the process
// included.
func NewMetrics(cfg Config) *Metrics {
	cfg = cfg.withDefaults()
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		bounds:   newBounds(cfg.TopicsMax, cfg.GroupsMax),
		vecs:     newVecs(),
		// Their keys are label values, which bounds, the router and the number of
		// shards limit.
		topics: newTable[pair, *topicSeries](math.MaxInt),
		groups: newTable[triple, *groupSeries](math.MaxInt),
		codes:  newTable[string, prometheus.Counter](math.MaxInt),
		shards: newTable[int, *shardSeries](math.MaxInt),
		routes: newTable[route, *routeSeries](math.MaxInt),
	}
	m.publish = m.vecs.publishSeconds.WithLabelValues()
	m.vecs.build.WithLabelValues(cfg.Version).Set(1)
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.registry.MustRegister(m.vecs.all()...)
	if cfg.Gauges != nil {
		m.registry.MustRegister(newGauges(cfg, m.bounds))
	}
	return m
}

// Handler answers GET /metrics in the Prometheus text format, or in OpenMetrics if
// the caller prefers it. What could be collected is answered if something could not.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: ScrapesMax,
		Timeout:             ScrapeTimeout,
	})
}

// SetRedisUp says whether Redis answers. Until it is said, nothing is reported.
func (m *Metrics) SetRedisUp(up bool) { m.vecs.redisUp.WithLabelValues().Set(number(up)) }

// SetPostgresUp says whether Postgres answers. Until it is said, nothing is reported.
func (m *Metrics) SetPostgresUp(up bool) { m.vecs.postgresUp.WithLabelValues().Set(number(up)) }

// SetProjectionActive says whether this instance projects a shard. While it does
// not, it reports no lag of it: the instance that does reports that.
func (m *Metrics) SetProjectionActive(shard int, active bool) {
	m.shard(shard).active.Set(number(active))
	if !active {
		label := strconv.Itoa(shard)
		m.vecs.lagEvents.DeleteLabelValues(label)
		m.vecs.lagSeconds.DeleteLabelValues(label)
	}
}

// SetProjectionLag says how far a shard's projections are behind its log, in events
// and in time.
func (m *Metrics) SetProjectionLag(shard int, events int64, age time.Duration) {
	label := strconv.Itoa(shard)
	m.vecs.lagEvents.WithLabelValues(label).Set(float64(max(events, 0)))
	m.vecs.lagSeconds.WithLabelValues(label).Set(max(age, 0).Seconds())
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
