"""A FastAPI application with a database and calls to another service, as OpenTelemetry's own packages instrument it, and requests to it.

    otel_app.py sdk FILE          records with OpenTelemetry's SDK; FILE gets the spans as JSON
    otel_app.py spanring FOLDER   records with spanring, into FOLDER

The requests are the same each time, and come one after the other.
"""
import asyncio
import json
import sys
import warnings

# The test client of some versions says that it will change.
warnings.simplefilter("ignore")

import fastapi  # noqa: E402
import httpx  # noqa: E402
import sqlalchemy  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from opentelemetry import baggage, context, propagate, trace  # noqa: E402
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: E402
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor  # noqa: E402
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor  # noqa: E402
from opentelemetry.trace import Link, SpanKind, Status, StatusCode  # noqa: E402

tracer = trace.get_tracer("shop", "1.0")
application = fastapi.FastAPI()
engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.pool.StaticPool, connect_args={"check_same_thread": False})
books = sqlalchemy.Table(
    "books",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("title", sqlalchemy.String(100)),
)


async def price(book):
    with tracer.start_as_current_span("price", attributes={"book": book, "tags": ["a", "b"], "rate": 0.5}) as span:
        await asyncio.sleep(0)
        span.add_event("priced", {"cents": book * 100, "ok": True})
        return book * 100


@application.get("/books/{book}")
async def one_book(book: int):
    """Tasks below one request, a database and a span that is renamed."""
    with engine.connect() as connection:
        row = connection.execute(sqlalchemy.select(books.c.title).where(books.c.id == book)).first()
    with tracer.start_as_current_span("prices") as span:
        cents = await asyncio.gather(*(price(number) for number in range(3)))
        span.update_name("all prices")
        span.set_attribute("sum", sum(cents))
        span.set_attributes({"none": None, "bytes": b"\x00\xff", "nested": {"a": [1, "b"]}, "big": 2**62, "text": "\u00e4\u20ac"})
    if row is None:
        raise fastapi.HTTPException(404, "no such book")
    return {"title": row[0], "cents": cents}


@application.get("/report")
def report():
    """Runs in a thread of the pool."""
    with tracer.start_as_current_span("report", kind=SpanKind.INTERNAL) as span:
        with engine.begin() as connection:
            connection.execute(books.insert(), [{"title": "more"}, {"title": "yet more"}])
            count = connection.execute(sqlalchemy.text("select count(*) from books")).scalar()
        span.set_status(Status(StatusCode.OK))
        span.set_status(Status(StatusCode.ERROR, "too late"))
    return {"count": count}


@application.get("/fails")
async def fails():
    with tracer.start_as_current_span("outer"):
        try:
            with tracer.start_as_current_span("inner"):
                with engine.connect() as connection:
                    connection.execute(sqlalchemy.text("select * from nowhere"))
        except sqlalchemy.exc.OperationalError as error:
            trace.get_current_span().record_exception(error, {"again": True})
    raise ValueError("a fault of the application")


@application.get("/calls")
async def calls(request: fastapi.Request):
    """Calls the application itself, by HTTP's rules."""
    with tracer.start_as_current_span("calls", kind=SpanKind.CLIENT):
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://inner.test") as client:
            answer = await client.get("/books/1", headers={"x-from": request.headers.get("x-from", "")})
    return answer.json()


@application.get("/stream")
async def stream(tasks: fastapi.BackgroundTasks):
    def later():
        with tracer.start_as_current_span("later"):
            pass

    tasks.add_task(later)

    async def parts():
        with tracer.start_as_current_span("parts"):
            for number in range(3):
                yield f"{number}\n"
                await asyncio.sleep(0)

    return fastapi.responses.StreamingResponse(parts(), background=tasks)


@application.post("/links")
async def links():
    """Spans with links, a root below a request, a baggage, a span that is ended by hand at another time."""
    current = trace.get_current_span().get_span_context()
    token = context.attach(baggage.set_baggage("user", "7"))
    with tracer.start_as_current_span("linked", links=[Link(current, {"why": "request"})], context=context.Context()) as span:
        span.add_link(current)
    token, before = context.attach(context.get_current()), token
    worker = tracer.start_span("worker", kind=SpanKind.PRODUCER, start_time=1_700_000_000_000_000_000)
    with trace.use_span(worker):
        with tracer.start_as_current_span("consumer", kind=SpanKind.CONSUMER):
            pass
    worker.add_event("done", timestamp=1_700_000_000_500_000_000)
    worker.end(1_700_000_001_000_000_000)
    context.detach(token)
    context.detach(before)
    return {"baggage": baggage.get_baggage("user")}


def requests():
    remote = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=x"}
    not_sampled = {"traceparent": f"00-{'c' * 32}-{'d' * 16}-00"}
    with TestClient(application, raise_server_exceptions=False) as client:
        for verb, path, headers in [
            ("GET", "/books/1", {}),
            ("GET", "/books/99", remote),
            ("GET", "/books/no-number", {}),
            ("GET", "/report", {"x-from": "me"}),
            ("GET", "/fails", remote),
            ("GET", "/calls", {}),
            ("GET", "/stream", {}),
            ("POST", "/links", {}),
            ("DELETE", "/nowhere", {}),
            ("GET", "/books/1", not_sampled),
        ]:
            client.request(verb, path, headers=headers)
    with tracer.start_as_current_span("not a request"):
        propagate.inject({})


def plain(value):
    if isinstance(value, bytes):
        return {"bytes": list(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    return value


def shown(span):
    """A span of the SDK, as conftest.Recorded has it."""
    parent = span.parent
    return {
        "name": span.name,
        "kind": span.kind.value + 1,
        "trace": f"{span.context.trace_id:032x}",
        "span": f"{span.context.span_id:016x}",
        "parent": f"{parent.span_id:016x}" if parent else None,
        "parent is remote": bool(parent and parent.is_remote),
        "trace state": span.context.trace_state.to_header(),
        "scope": [span.instrumentation_scope.name, span.instrumentation_scope.version],
        "attributes": plain(span.attributes),
        "events": [[event.name, plain(event.attributes)] for event in span.events],
        "links": [[f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}", plain(link.attributes)] for link in span.links],
        "status": [span.status.status_code.value, span.status.description or ""],
    }


def main():
    how, place = sys.argv[1:]
    if how == "sdk":
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    else:
        from spanring.otel import TracerProvider

        provider = TracerProvider(dir=place, service_name="shop", ignore_environment=True)
    trace.set_tracer_provider(provider)
    FastAPIInstrumentor.instrument_app(application)
    HTTPXClientInstrumentor().instrument()
    SQLAlchemyInstrumentor().instrument(engine=engine)
    books.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(books.insert(), [{"title": "one"}])
    requests()
    if how == "sdk":
        with open(place, "w", encoding="utf-8") as out:
            json.dump([shown(span) for span in exporter.get_finished_spans()], out)
    provider.shutdown()


if __name__ == "__main__":
    main()
