"""What gunicorn serves in test_gunicorn.py: each request makes a small tree of spans, across awaits, tasks and both interfaces."""
import asyncio
import os

import fastapi
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

import spanring
from spanring.otel import TracerProvider

trace.set_tracer_provider(TracerProvider(service_name="gunicorn"))
tracer = trace.get_tracer("application")
application = fastapi.FastAPI()


async def step(number, index):
    with tracer.start_as_current_span("step", attributes={"n": number, "index": index}):
        await asyncio.sleep(0)
        with spanring.span("leaf", n=number, index=index):
            await asyncio.sleep(0)


def in_thread(number):
    with spanring.span("thread", n=number):
        pass


@application.get("/work/{number}")
async def work(number: int):
    with spanring.span("work", n=number, pid=os.getpid()):
        await asyncio.gather(*(step(number, index) for index in range(2)), asyncio.to_thread(in_thread, number))
    return {"pid": os.getpid()}


FastAPIInstrumentor.instrument_app(application, exclude_spans=["send", "receive"])
