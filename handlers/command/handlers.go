package command

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/commands"
	"github.com/tallymq/tallymq/handlers/web"
)

// Limits of requests, in bytes.
const (
	// AdminBodyMax bounds the body of a request that configures something.
	AdminBodyMax = 256 << 10
	// SettleBodyMax bounds the body of ack, nack and extend: a thousand tokens.
	SettleBodyMax = 512 << 10
	// BatchBodyMax bounds the body of a batch, unless one message may be larger.
	BatchBodyMax = 16 << 20
	// envelopeMax is what a publish request may hold beside its payload.
	envelopeMax = 64 << 10
)

// retryAfterS is what a caller is told to wait when a store does not answer.
const retryAfterS = 1

// Deps is what the handlers need.
type Deps struct {
	Commands *commands.Dispatcher
	// NewID mints ids (UUIDv7).
	NewID func() string
	// PayloadBytesMax is MAX_MESSAGE_SIZE.
	PayloadBytesMax int
	// Waiting bounds the pulls that wait; nil does not.
	Waiting interface {
		Enter(tenantID string) (leave func(), err error)
	}
	// TraceParent is the request's own trace context, "" where it is not traced; nil
	// is for a service without tracing.
	TraceParent func(context.Context) string
	Jobs        Jobs
	// Secret derives a webhook's secret.
	Secret func(info string) string
	// Open decrypts a schedule's payload; it is asked only for what is encrypted.
	Open func(ctx context.Context, tenantID, topicID, scheduleID string, payload []byte) ([]byte, error)
	// MessageStatus is what the read side knows of a message: its status, "" for none.
	MessageStatus func(ctx context.Context, tenantID, messageID string) (string, error)
	// StoredMessage is a tenant's message as the read side has it, or a refusal.
	StoredMessage func(ctx context.Context, tenantID, messageID string) (commands.StoredMessage, error)
	// NextTick is when a schedule ticks next.
	NextTick func(cron, timeZone string, after time.Time) (time.Time, error)
	// Refused is told the code of every command that is refused, nil for nobody.
	Refused func(code string)
	// Stopping ends waiting pulls when it ends; nil never does.
	Stopping context.Context //nolint:containedctx // a lifetime, not a call's
	Logger   *slog.Logger
}

// Handlers serves the command API.
type Handlers struct{ deps Deps }

// New returns handlers.
func New(deps Deps) *Handlers { return &Handlers{deps: deps} }

// Register adds the routes to the API's group.
func (h *Handlers) Register(g *echo.Group) {
	admin := web.Require(web.ScopeAdmin)
	g.POST("/queues", h.createQueue, admin)
	g.PUT("/queues/:name", h.updateQueue, admin)
	g.DELETE("/queues/:name", h.deleteQueue, admin)
	g.POST("/queues/:name/purge", h.purgeQueue, admin)
	publish := web.Require(web.ScopePublish)
	g.POST("/publish", h.publish, publish)
	g.POST("/publish/batch", h.publishBatch, publish)
	g.POST("/publish/delayed", h.publishDelayed, publish)
	g.POST("/publish/scheduled", h.publishScheduled, publish)
	g.POST("/topics/:name/publish", h.PublishToTopic, publish)
	// Whoever consumes may see to their own subscriptions.
	subscribe := web.Require(web.ScopeAdmin, web.ScopeConsume)
	g.POST("/subscriptions", h.createSubscription, subscribe)
	g.PUT("/subscriptions/:id", h.updateSubscription, subscribe)
	g.DELETE("/subscriptions/:id", h.deleteSubscription, subscribe)
	g.POST("/subscriptions/:id/pause", h.pauseSubscription, subscribe)
	g.POST("/subscriptions/:id/resume", h.resumeSubscription, subscribe)
	h.registerDelivery(g)
	consume := web.Require(web.ScopeConsume)
	g.POST("/subscriptions/:id/pull", h.pull, consume)
	g.POST("/subscriptions/:id/ack", h.ack, consume)
	g.POST("/subscriptions/:id/nack", h.nack, consume)
	g.POST("/subscriptions/:id/extend", h.extend, consume)
}

// registerDelivery adds the routes that steer when and to whom messages come.
func (h *Handlers) registerDelivery(g *echo.Group) {
	schedule := web.Require(web.ScopePublish, web.ScopeAdmin)
	g.POST("/messages/:id/cancel", h.cancelMessage, schedule)
	g.POST("/messages/:id/erase", h.eraseMessage, web.Require(web.ScopeAdmin))
	g.POST("/schedules", h.createSchedule, schedule)
	g.POST("/schedules/:id/pause", h.pauseSchedule, schedule)
	g.POST("/schedules/:id/resume", h.resumeSchedule, schedule)
	g.DELETE("/schedules/:id", h.deleteSchedule, schedule)
	subscribe := web.Require(web.ScopeAdmin, web.ScopeConsume)
	g.POST("/subscriptions/:id/seek", h.seek, subscribe)
	g.POST("/subscriptions/:id/test-filter", h.testFilter, subscribe)
	g.GET("/subscriptions/:id/secret", h.secrets, subscribe)
	g.POST("/subscriptions/:id/rotate-secret", h.rotateSecret, subscribe)
	g.POST("/subscriptions/:id/redrive", h.redrive, subscribe)
	g.POST("/queues/:name/replay", h.replay, web.Require(web.ScopeAdmin))
	g.POST("/jobs/:id/cancel", h.cancelJob, subscribe)
}

var (
	traceParent    = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
	idempotencyKey = regexp.MustCompile(`^[\x21-\x7e]{1,255}$`)
)

// caller reads who asks and how: Idempotency-Key, Prefer (RFC 7240) and
// traceparent (W3C Trace Context; a malformed one is ignored, as that says).
// Query parameters that the route does not have are refused.
func (h *Handlers) caller(c echo.Context, parameters ...string) (commands.Caller, error) {
	if err := web.CheckQuery(c, parameters...); err != nil {
		return commands.Caller{}, err
	}
	header := c.Request().Header
	caller := commands.Caller{RequestID: web.RequestID(c), IdempotencyKey: header.Get("Idempotency-Key")}
	identity := web.IdentityOf(c)
	caller.TenantID, caller.Subject, caller.Platform = identity.TenantID, identity.Subject, identity.Platform
	if _, given := header["Idempotency-Key"]; given && !idempotencyKey.MatchString(caller.IdempotencyKey) {
		return caller, web.Invalid(web.Detail{Field: "Idempotency-Key", Limit: "1 to 255 printable ASCII characters without spaces", Problem: "is not that"})
	}
	for _, value := range header.Values("Prefer") {
		for preference := range strings.SplitSeq(value, ",") {
			caller.Async = caller.Async || strings.EqualFold(strings.TrimSpace(preference), "respond-async")
		}
	}
	if tp := header.Get("Traceparent"); traceParent.MatchString(tp) {
		caller.TraceParent = tp
	}
	if h.deps.TraceParent != nil {
		if own := h.deps.TraceParent(c.Request().Context()); own != "" {
			caller.TraceParent = own
		}
	}
	return caller, nil
}

// created is the status of a successful creation: 202 says that it is in the log
// and not yet in the read tables.
func created(caller commands.Caller) int {
	if caller.Async {
		return http.StatusAccepted
	}
	return http.StatusCreated
}

// statuses maps the codes of refusals; a code that is not here is a fault of ours.
var statuses = map[commands.Code]int{
	commands.CodeValidationFailed:     http.StatusBadRequest,
	commands.CodeForbidden:            http.StatusForbidden,
	commands.CodeQueueNotFound:        http.StatusNotFound,
	commands.CodeSubscriptionNotFound: http.StatusNotFound,
	commands.CodeMessageNotFound:      http.StatusNotFound,
	commands.CodeScheduleNotFound:     http.StatusNotFound,
	commands.CodeJobNotFound:          http.StatusNotFound,
	commands.CodeConflict:             http.StatusConflict,
	commands.CodePublishFailed:        http.StatusConflict,
	commands.CodeConsumerError:        http.StatusConflict,
	commands.CodeLeaseLost:            http.StatusConflict,
	commands.CodePayloadTooLarge:      http.StatusRequestEntityTooLarge,
	commands.CodeIdempotencyKeyReused: http.StatusUnprocessableEntity,
	commands.CodeVersionMismatch:      http.StatusPreconditionFailed,
	commands.CodeQueueFull:            http.StatusTooManyRequests,
	commands.CodeUnavailable:          http.StatusServiceUnavailable,
}

// httpError turns a command's error into the API's. Faults keep their text for
// the log and lose it for the caller.
func (h *Handlers) httpError(err error) *web.Error {
	if refusal, ok := errors.AsType[*commands.Refusal](err); ok {
		if h.deps.Refused != nil {
			h.deps.Refused(string(refusal.Code))
		}
		e := &web.Error{Status: statuses[refusal.Code], Code: string(refusal.Code), Message: refusal.Reason}
		for _, p := range refusal.Problems {
			e.Details = append(e.Details, web.Detail{Field: p.Field, Limit: p.Limit, Problem: p.Text})
		}
		if e.Status == http.StatusServiceUnavailable || e.Status == http.StatusTooManyRequests {
			e.RetryAfterS = retryAfterS
		}
		return e
	}
	if commands.IsUnavailable(err) {
		level := slog.LevelWarn
		if errors.Is(err, context.Canceled) {
			level = slog.LevelDebug // the caller left
		}
		h.deps.Logger.Log(context.Background(), level, "command not answered in time", "error", err)
		return &web.Error{
			Status: http.StatusServiceUnavailable, Code: string(commands.CodeUnavailable), RetryAfterS: retryAfterS,
			Message: "not confirmed in time: whether it happened is unknown; repeat it with the same Idempotency-Key",
		}
	}
	if e, ok := errors.AsType[*web.Error](err); ok {
		return e
	}
	h.deps.Logger.Error("command failed", "error", err)
	return &web.Error{Status: http.StatusInternalServerError, Code: "MQ_INTERNAL", Message: "internal error"}
}

// timeOf is the API's form of an instant in ms since 1970.
func timeOf(ms int64) web.Time { return web.Time(time.UnixMilli(ms)) }

// detached is for what must be done although the caller has left.
func detached(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
