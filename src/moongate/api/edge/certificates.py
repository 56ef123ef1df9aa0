"""The names that want a certificate by ACME, and how it is with each."""

from fastapi import APIRouter
from starlette.responses import Response

from moongate.api.answers import answer_list, timestamp
from moongate.api.auth import GuardedRoute, bearer_documented
from moongate.api.edge.schemas import Certificate
from moongate.api.edge.tunnels import UNAUTHORIZED
from moongate.api.parts import Made

router = APIRouter(
    prefix="/api/certificates",
    tags=["certificates"],
    route_class=GuardedRoute,
    dependencies=[bearer_documented],
    responses=UNAUTHORIZED,
)


@router.get("", operation_id="listCertificates", response_model=list[Certificate], summary="Certificates by ACME")
async def list_certificates(parts: Made) -> Response:
    """List every name that wants a certificate, by name."""
    return answer_list(
        [
            {
                "name": name,
                "state": status.state,
                "message": status.message,
                "not_after": timestamp(status.not_after) if status.not_after is not None else None,
            }
            for name, status in sorted(parts.certificates().items())
        ]
    )
