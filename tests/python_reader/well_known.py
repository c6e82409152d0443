"""The names that batches refer to by index ("Well-known names" of docs/batch-format.md)."""

WELL_KNOWN = tuple(
    """
    service.name service.version service.namespace service.instance.id deployment.environment
    deployment.environment.name telemetry.sdk.language telemetry.sdk.name telemetry.sdk.version
    telemetry.distro.name telemetry.distro.version host.name host.id host.arch host.type os.type
    os.version os.description process.pid process.executable.name process.executable.path
    process.command process.command_args process.command_line process.owner process.runtime.name
    process.runtime.version process.runtime.description container.id container.name
    container.image.name container.image.tag k8s.pod.name k8s.pod.uid k8s.pod.ip k8s.namespace.name
    k8s.node.name k8s.cluster.name k8s.deployment.name k8s.container.name cloud.provider
    cloud.platform cloud.region cloud.availability_zone cloud.account.id exception exception.type
    exception.message exception.stacktrace exception.escaped error.type thread.id thread.name
    code.function code.function.name code.namespace code.filepath code.file.path code.lineno
    code.line.number http.request.method http.response.status_code http.route http.request.body.size
    http.response.body.size http.request.resend_count url.full url.path url.query url.scheme
    user_agent.original server.address server.port client.address client.port network.protocol.name
    network.protocol.version network.peer.address network.peer.port network.transport network.type
    http.method http.status_code http.url http.target http.scheme http.host http.flavor
    http.server_name http.client_ip http.user_agent http.request_content_length
    http.response_content_length net.host.name net.host.port net.host.ip net.peer.name net.peer.port
    net.peer.ip net.transport net.sock.peer.addr net.sock.peer.port asgi.event.type db.system
    db.system.name db.name db.namespace db.user db.statement db.query.text db.query.summary
    db.operation db.operation.name db.collection.name db.sql.table db.connection_string
    db.response.status_code db.response.returned_rows rpc.system rpc.service rpc.method
    rpc.grpc.status_code messaging.system messaging.destination messaging.destination.name
    messaging.operation messaging.operation.name messaging.operation.type messaging.message.id
    messaging.message.body.size messaging.batch.message_count messaging.consumer.group.name
    messaging.kafka.message.key messaging.kafka.message.offset messaging.destination.partition.id
    faas.trigger faas.invocation_id enduser.id user.id session.id peer.service gen_ai.system
    gen_ai.provider.name gen_ai.operation.name gen_ai.request.model gen_ai.request.temperature
    gen_ai.request.max_tokens gen_ai.response.id gen_ai.response.model
    gen_ai.response.finish_reasons gen_ai.usage.input_tokens gen_ai.usage.output_tokens
    gen_ai.agent.name gen_ai.tool.name gen_ai.conversation.id openinference.span.kind input.value
    output.value llm.model_name tool.name
    """.split()
)
