package feed

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tallymq/tallymq/handlers/web"
)

func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	b := setup(t)
	mixed(b, 4)
	_, cursor := b.page("?type=message.*", tenant)
	for query, field := range map[string]string{
		"?type=message":                        "type",
		"?type=message.gone":                   "type",
		"?type=*":                              "type",
		"?type=.":                              "type",
		"?type=,":                              "type",
		"?type=message.published,":             "type",
		"?messageId=1":                         "messageId",
		"?messageId=" + newID(t) + "x":         "messageId",
		"?from=yesterday":                      "from",
		"?from=9999-01-01T00:00:00Z":           "from",
		"?from=1900-01-01T00:00:00Z":           "from",
		"?limit=0":                             "limit",
		"?limit=501":                           "limit",
		"?cursor=x":                            "cursor",
		"?cursor=" + cursor:                    "cursor", // of another filter
		"?type=topic.*&cursor=" + cursor:       "cursor",
		"?type=message.*&cursor=" + cursor[1:]: "cursor",
		"?type=message.*&cursor=" + cursor + "AAAA": "cursor",
		"?kind=x":        "kind",
		"?type=a&type=b": "type",
		"?queue=a%00":    "queue",
	} {
		require.Equal(t, field, b.refused(http.StatusBadRequest, web.CodeValidationFailed, query, tenant), query)
	}
	// a cursor is the tenant's own
	require.Equal(t, "cursor", b.refused(http.StatusBadRequest, web.CodeValidationFailed, "?type=message.*&cursor="+cursor, other))
	require.Equal(t, "cursor", b.refused(http.StatusBadRequest, web.CodeValidationFailed, "?type=message.*&cursor="+cursor, ""))
	forged := (web.Cursors{Key: []byte("guess")}).Encode(tenant, "feed\x00\x00\x00", "", "0", "0", "0", "0")
	require.Equal(t, "cursor", b.refused(http.StatusBadRequest, web.CodeValidationFailed, "?cursor="+forged, tenant))
	require.Equal(t, headerLastEventID, b.refused(http.StatusBadRequest, web.CodeValidationFailed, "", tenant,
		"Accept", mimeEventStream, headerLastEventID, forged))
	// another tenant's queue is as missing as none
	b.logs[0].topic(other, "theirs")
	b.fold()
	for _, name := range []string{"none", "theirs", other + ":theirs"} {
		b.refused(http.StatusNotFound, "MQ_QUEUE_NOT_FOUND", "?queue="+name, tenant)
		b.refused(http.StatusNotFound, "MQ_QUEUE_NOT_FOUND", "?queue="+name, tenant, "Accept", mimeEventStream)
	}
	require.Equal(t, "queue", b.refused(http.StatusBadRequest, web.CodeValidationFailed, "?queue=q1", ""))
}
