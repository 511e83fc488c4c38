package query

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/tallymq/tallymq/handlers/web"
	"github.com/tallymq/tallymq/proof"
	"github.com/tallymq/tallymq/queries"
)

// proof answers with the file that `tallymq prove` writes: what is signed is what history
// has, so payloads are as they are stored.
func (h *Handlers) proof(c echo.Context) error {
	id, err := detailID(c)
	if err != nil {
		return err
	}
	tenantID := web.IdentityOf(c).TenantID
	ctx, cancel := withTimeout(c)
	defer cancel()
	document, err := queries.Proof(ctx, h.deps.DB(tenantID), tenantID, id, proof.Heads{})
	switch {
	case errors.Is(err, queries.ErrProofTooLong):
		return web.Invalid(web.Detail{Field: "id", Limit: fmt.Sprintf("a message of at most %d events", queries.ProofEventsMax), Problem: "has more"})
	case errors.Is(err, queries.ErrUnsealed):
		return &web.Error{Status: http.StatusNotFound, Code: codeMessageNotFound, Message: "no proof of message " + id + ": it was published before history was sealed"}
	case err != nil:
		return h.failed(c, err, notFound(codeMessageNotFound, "message", id))
	}
	if document, err = h.deps.SignProof(ctx, document); err != nil {
		return h.failed(c, err, nil)
	}
	return web.WriteJSON(c, http.StatusOK, document)
}
