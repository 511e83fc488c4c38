package main

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/stretchr/testify/require"
)

// The CloudEvents SDK publishes in every mode, to a queue and to a topic; what a consumer
// gets is the event, and an event that is sent again is published once.
func TestCloudEventsAreTakenInEveryMode(t *testing.T) {
	t.Parallel()
	i := start(t, testConfig(t), "")
	require.Equal(t, http.StatusCreated, i.post("/queues", `{"name":"q"}`).status)
	var sub struct{ ID string }
	i.post("/subscriptions", `{"queue":"q","consumerGroup":"g"}`).decode(http.StatusCreated, &sub)
	made := func(id string) event.Event {
		e := cloudevents.NewEvent()
		e.SetID(id)
		e.SetSource("/shop")
		e.SetType("order.created")
		e.SetSubject("größe")
		e.SetTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
		e.SetExtension("partitionkey", "customer-7")
		require.NoError(t, e.SetData(cloudevents.ApplicationJSON, map[string]int{"order": 42}))
		return e
	}
	client, err := cloudevents.NewClientHTTP()
	require.NoError(t, err)
	send := func(ctx context.Context, e event.Event) {
		result := client.Send(ctx, e)
		require.True(t, cloudevents.IsACK(result), "%v", result)
		var answered *cehttp.Result
		require.True(t, cloudevents.ResultAs(result, &answered))
		require.Equal(t, http.StatusCreated, answered.StatusCode)
	}
	queue := cloudevents.ContextWithTarget(t.Context(), i.url+apiPrefix+"/publish?queue=q")
	topic := cloudevents.ContextWithTarget(t.Context(), i.url+apiPrefix+"/topics/q/publish")
	send(binding.WithForceBinary(queue), made("1"))
	send(binding.WithForceStructured(queue), made("2"))
	send(binding.WithForceStructured(topic), made("3"))
	send(binding.WithForceBinary(topic), made("4"))
	batch := []event.Event{made("5"), made("6"), made("1")}
	request, err := cehttp.NewHTTPRequestFromEvents(t.Context(), i.url+apiPrefix+"/topics/q/publish", batch)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var taken struct {
		Accepted int
		Results  []struct{ Duplicate bool }
	}
	answer{t: t, status: resp.StatusCode, body: text}.decode(http.StatusCreated, &taken)
	require.Equal(t, 3, taken.Accepted)
	require.Equal(t, []struct{ Duplicate bool }{{false}, {false}, {true}}, taken.Results, "the first event was sent again, in another mode")

	var pulled struct {
		Messages []struct {
			Payload, Headers map[string]any
			Key, ContentType string
		}
	}
	eventually(t, "all are there", func() bool {
		var state struct{ State struct{ Depth int } }
		i.get("/queues/q").decode(http.StatusOK, &state)
		return state.State.Depth == 6
	})
	i.post("/subscriptions/"+sub.ID+"/pull", `{"maxMessages":10}`).decode(http.StatusOK, &pulled)
	require.Len(t, pulled.Messages, 6)
	for n, m := range pulled.Messages {
		require.Equal(t, map[string]any{"order": 42.0}, m.Payload)
		require.Equal(t, "customer-7", m.Key)
		require.Equal(t, cloudevents.ApplicationJSON, m.ContentType)
		require.Equal(t, map[string]any{
			"ce-specversion": "1.0", "ce-id": string(rune('1' + n)), "ce-source": "/shop", "ce-type": "order.created", "ce-subject": "größe",
			"ce-time": "2026-01-02T03:04:05Z", "ce-partitionkey": "customer-7",
		}, m.Headers)
	}
}
