# frozen_string_literal: true

require "json"

module Spanring
  module RAAF
    # What RAAF's kinds and attributes are called elsewhere: in OpenTelemetry's conventions for generative AI (gen_ai.*), in OpenInference
    # (openinference.span.kind, input.value), and to OpenAI's trace ingest (openai.span.type).
    #
    # Nothing is taken away or renamed: the names of others are added to RAAF's own, unless the span has them already.
    module Conventions
      # How a kind of RAAF's is called: `openinference` is its span kind there, `operation` gen_ai.operation.name or nil, `span_kind`
      # OpenTelemetry's, `openai_type` the type of its span data. `names` is all that as attributes.
      Kind = Struct.new(:name, :openinference, :operation, :span_kind, :openai_type, :names) do
        def self.of(name, openinference, operation, span_kind, openai_type)
          names = { "raaf.kind" => name, "openinference.span.kind" => openinference, "openai.span.type" => openai_type }
          names["gen_ai.operation.name"] = operation if operation
          new(name, openinference, operation, span_kind, openai_type, names.freeze).freeze
        end
      end

      KINDS = [
        ["agent", "AGENT", "invoke_agent", :internal, "agent"],
        ["llm", "LLM", "chat", :client, "generation"],
        ["response", "LLM", "chat", :client, "response"],
        ["tool", "TOOL", "execute_tool", :internal, "function"],
        ["guardrail", "GUARDRAIL", nil, :internal, "guardrail"],
        ["handoff", "CHAIN", nil, :internal, "handoff"],
        ["mcp_list_tools", "CHAIN", nil, :client, "mcp_tools"],
        ["speech", "LLM", nil, :client, "speech"],
        ["transcription", "LLM", nil, :client, "transcription"],
        ["speech_group", "CHAIN", nil, :internal, "speech_group"],
        ["trace", "CHAIN", nil, :internal, "trace"],
        *%w[pipeline runner job component custom internal].map { |name| [name, "CHAIN", nil, :internal, "custom"] },
      ].flat_map { |row| [row[0].to_sym, row[0].freeze].zip([Kind.of(*row)].cycle) }.to_h.freeze

      # RAAF's names for one thing, the best first: of several, the first with a value that can be used counts.
      SOURCES = {
        input_tokens: %w[gen_ai.usage.input_tokens llm.usage.input_tokens llm.usage.prompt_tokens llm.tokens.input input_tokens
                         decision.tokens.input],
        output_tokens: %w[gen_ai.usage.output_tokens llm.usage.output_tokens llm.usage.completion_tokens llm.tokens.output output_tokens
                          decision.tokens.output],
        cache_read: %w[gen_ai.usage.cache_read.input_tokens llm.usage.cache_read_input_tokens llm.tokens.cache_read],
        cache_creation: %w[gen_ai.usage.cache_creation.input_tokens llm.usage.cache_creation_input_tokens llm.tokens.cache_creation],
        usage: %w[usage llm.usage],
        llm: %w[llm],
        model: %w[llm.request.model llm.model agent.model speech.model transcription.model decision.model model],
        response_model: %w[llm.response.model decision.result.model],
        agent: %w[agent.name agent_name],
        tool: %w[tool_name function.name tool.name],
        from: %w[handoff.from],
        to: %w[handoff.to],
        session: %w[session_id trace.group_id],
        response: %w[response_id response.id llm.response.id],
        finish: %w[llm.response.finish_reason],
        mcp_tools: %w[mcp.tools],
        mcp_data: %w[function.mcp_data],
        temperature: %w[llm.request.temperature],
        top_p: %w[llm.request.top_p],
        max_tokens: %w[llm.request.max_tokens],
        frequency_penalty: %w[llm.request.frequency_penalty],
        presence_penalty: %w[llm.request.presence_penalty],
        input: %w[llm.request.messages function.input tool.arguments tool_arguments agent.input agent.initial_user_prompt speech.input
                  transcription.input speech_group.input pipeline.initial_context job.arguments decision.state],
        output: %w[llm.response.content llm.response.tool_calls function.output result.tool_result tool.result agent.output agent.final_agent_response
                   speech.output transcription.output result.final_result decision.answers result.execution_result],
      }.freeze

      # What is said under another name as it is.
      RENAMED = {
        model: "gen_ai.request.model", response_model: "gen_ai.response.model", agent: "gen_ai.agent.name", tool: "gen_ai.tool.name",
        from: "handoff.from_agent", to: "handoff.to_agent", session: "session.id", response: "gen_ai.response.id", mcp_tools: "mcp.result",
        mcp_data: "mcp.data", temperature: "gen_ai.request.temperature", top_p: "gen_ai.request.top_p",
        max_tokens: "gen_ai.request.max_tokens", frequency_penalty: "gen_ai.request.frequency_penalty",
        presence_penalty: "gen_ai.request.presence_penalty"
      }.freeze

      # Counts of tokens, which are integers whatever they were: the last word on their names.
      COUNTS = {
        input_tokens: "gen_ai.usage.input_tokens", output_tokens: "gen_ai.usage.output_tokens",
        cache_read: "gen_ai.usage.cache_read.input_tokens", cache_creation: "gen_ai.usage.cache_creation.input_tokens"
      }.freeze
      # Their names in hashes of usage.
      NESTED_COUNTS = {
        input_tokens: %i[input_tokens prompt_tokens], output_tokens: %i[output_tokens completion_tokens],
        cache_read: %i[cache_read_input_tokens], cache_creation: %i[cache_creation_input_tokens]
      }.freeze
      # What RAAF says where it knows nothing.
      UNKNOWN = ["N/A", "n/a", "unknown"].freeze

      SLOTS = SOURCES.keys.each_with_index.to_h.freeze
      SLOT_COUNT = SLOTS.size
      NAMES = SLOTS.keys.map { |slot| RENAMED[slot] }.freeze
      COUNT_SLOTS = COUNTS.map { |slot, name| [SLOTS.fetch(slot), name, NESTED_COUNTS.fetch(slot)] }.freeze
      COUNT_SLOT_COUNT = COUNTS.size
      # By name, as String and as Symbol: which slot, and how good the source is.
      KNOWN = SOURCES.flat_map do |slot, names|
        names.each_with_index.flat_map { |name, rank| [[name.freeze, SLOTS[slot] << 8 | rank], [name.to_sym, SLOTS[slot] << 8 | rank]] }
      end.to_h.freeze
      NO_RANKS = Array.new(SLOT_COUNT, 256).freeze
      NOTHING = [].freeze
      OK = [:ok, nil].freeze
      UNSET = [:unset, nil].freeze
      INPUT, OUTPUT, USAGE, LLM, FINISH = SLOTS.values_at(:input, :output, :usage, :llm, :finish)
      private_constant :SOURCES, :RENAMED, :COUNTS, :NESTED_COUNTS, :UNKNOWN, :SLOTS, :SLOT_COUNT, :NAMES, :COUNT_SLOTS,
                       :COUNT_SLOT_COUNT, :KNOWN, :NO_RANKS, :NOTHING, :OK, :UNSET, :INPUT, :OUTPUT, :USAGE, :LLM, :FINISH

      # Names that have prompts, completions, arguments and results of tools: in whole, or as what follows the last dot.
      CONTENT = %w[
        llm input.value output.value gen_ai.tool.definitions pipeline.execution_flow input.mime_type output.mime_type
      ].to_h { |name| [name, true] }.freeze
      CONTENT_ENDINGS = %w[
        input output input.value output.value messages conversation_messages content tool_calls prompt prompts completion completions query
        instructions system_instructions initial_user_prompt final_agent_response tool_executions arguments tool_arguments result
        tool_result execution_result final_result initial_context context state answers response text
      ].to_h { |name| [name, true] }.freeze
      private_constant :CONTENT, :CONTENT_ENDINGS

      class << self
        # The Kind of a kind of RAAF's; one that RAAF does not know is a chain, and custom to OpenAI.
        def kind(of)
          KINDS[of] || Kind.of(of.nil? ? "internal" : of.to_s, "CHAIN", nil, :internal, "custom")
        end

        # The attributes to record: `attributes` (a Hash with String or Symbol keys, which stays as it is) and what they are called
        # elsewhere. `kind` is a Kind, or RAAF's name of one; `span` is asked for the counts of tokens that are in no attribute, if it has
        # them. Without `content`, prompts, completions and what tools take and give are left out.
        def attributes(kind, attributes, span = nil, content: true)
          added, kept = apart(kind, attributes, span, content: content)
          added.merge!(kept)
        end

        # The same in two Hashes that have no key in common: what is added, and what is kept, which may be `attributes` itself.
        def apart(kind, attributes, span = nil, content: true)
          kind = kind(kind) unless kind.is_a?(Kind)
          added = kind.names.dup
          found = find(attributes, added)
          if content
            add_content(added, "input.value", "input.mime_type", found[INPUT])
            add_content(added, "output.value", "output.mime_type", found[OUTPUT])
          else
            attributes = attributes.reject { |key, _| content?(key) }
          end
          add_more(added, found)
          add_counts(added, found)
          add_counts_of(added, span) if span && !added.key?("gen_ai.usage.input_tokens") && span.respond_to?(:input_tokens)
          clash = nil
          added.each_key { |name| (clash ||= []) << name if attributes.key?(name) } unless attributes.empty?
          return [added, attributes] unless clash

          # What the span says itself counts, but for numbers that are text there.
          counts, others = clash.partition { |name| COUNTS.value?(name) }
          others.each { |name| added.delete(name) }
          %w[input output].each { |which| added.delete("#{which}.mime_type") if others.include?("#{which}.value") }
          [added, counts.empty? ? attributes : attributes.reject { |name, _| counts.include?(name) }]
        end

        # Whether prompts and completions are recorded: the setting CAPTURE_CONTENT, of code and environment.
        def content(given, environment: true)
          found = switch("CAPTURE_CONTENT", given, environment: environment)
          found.nil? || found
        end

        # A setting that is true or false, as the engine reads it; nil if nobody says.
        def switch(suffix, given, environment: true)
          values = environment ? [ENV["SPANRING_#{suffix}"], ENV["RAAF_TRACE_#{suffix}"], given] : [given]
          values.each do |value|
            case value.to_s.strip.downcase
            when "true", "1", "yes", "on" then return true
            when "false", "0", "no", "off" then return false
            end
          end
          nil
        end

        # What RAAF's status means: [:ok, :error or :unset, a message or nil].
        def status(status, attributes)
          case status
          when :ok, "ok" then OK
          when :error, "error" then [:error, message(attributes)]
          when :cancelled, "cancelled" then [:error, message(attributes) || "cancelled"]
          else UNSET
          end
        end

        # Whether what has this name is a prompt, a completion, or what a tool took or gave.
        def content?(key)
          key = key.name if key.is_a?(Symbol)
          return false unless key.is_a?(String)
          return true if CONTENT.key?(key)

          dot = key.rindex(".")
          ending = dot ? key[dot + 1..] : key
          # llm.tokens.input is a count.
          CONTENT_ENDINGS.key?(ending) && !key.include?("tokens")
        end

        private

        # Adds what only has another name, and gives what is known of the other slots.
        def find(attributes, added)
          found = ranks = nil
          attributes.each do |key, value|
            code = KNOWN[key]
            next if code.nil? || value.nil?

            slot = code >> 8
            rank = code & 255
            ranks ||= NO_RANKS.dup
            next unless rank < ranks[slot]

            if slot < COUNT_SLOT_COUNT
              next if (value = count(value)).nil?
            elsif value.is_a?(String) && UNKNOWN.include?(value)
              next
            end
            ranks[slot] = rank
            if (name = NAMES[slot])
              added[name] = value
            else
              (found ||= Array.new(SLOT_COUNT))[slot] = value
            end
          end
          found || NOTHING
        end

        def add_more(added, found)
          return if found.empty?

          finish = found[FINISH]
          added["gen_ai.response.finish_reasons"] = Array(finish) if finish
          return if found[LLM].nil? || added.key?("gen_ai.request.model")

          model = value(value(found[LLM], :request), :model)
          added["gen_ai.request.model"] = model if model.is_a?(String)
        end

        def add_counts(added, found)
          return if found.empty?

          usage = found[USAGE]
          inner = value(found[LLM], :usage)
          COUNT_SLOTS.each do |slot, name, nested|
            count = found[slot] || nested_count(usage, nested) || nested_count(inner, nested)
            added[name] = count if count
          end
        end

        # What RAAF's own spans know of themselves.
        def add_counts_of(added, span)
          { "gen_ai.usage.input_tokens" => :input_tokens, "gen_ai.usage.output_tokens" => :output_tokens }.each do |name, reader|
            count = count(span.public_send(reader))
            added[name] ||= count if count
          end
        end

        def nested_count(hash, names)
          return nil unless hash.is_a?(Hash)

          names.each do |name|
            count = count(value(hash, name))
            return count if count
          end
          nil
        end

        # Of a Hash with String or Symbol keys.
        def value(hash, name)
          return nil unless hash.is_a?(Hash)

          found = hash[name]
          found.nil? ? hash[name.name] : found
        end

        # A count of tokens, which may be text; nil for what is none.
        def count(value)
          case value
          when Integer then value unless value.negative?
          when String then Integer(value, 10) if value.match?(/\A\s*\d+\s*\z/)
          when Float then value.to_i if value.finite? && !value.negative?
          end
        end

        # Text stays as it is; everything else becomes JSON, or itself where there is no JSON for it.
        def add_content(added, name, type_name, value)
          case value
          when nil then nil
          when String, Symbol
            added[name] = value
            added[type_name] = "text/plain"
          else
            added[name] = JSON.generate(value, max_nesting: 100)
            added[type_name] = "application/json"
          end
        rescue StandardError, SystemStackError
          added[name] = value
        end

        def message(attributes)
          found = attributes["status.description"] || attributes["error.message"] || attributes[:"error.message"]
          found&.to_s
        end
      end
    end
  end
end
