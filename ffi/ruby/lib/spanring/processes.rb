# frozen_string_literal: true

module Spanring
  # Processes that end, or become others, without Ruby's exit: what they recorded is flushed before that.
  #
  # unicorn's workers end by exit!, and so do many fork children; puma's restart is an exec; Process.daemon goes on in a fork child, and its
  # parent ends at once. A fork needs nothing: a child has a pipeline of its own with its first span. Other processes end as Ruby does, which
  # delivers everything.
  module Processes
    SECONDS = 5.0

    def self.flush
      Spanring.flush(SECONDS)
    rescue Error
      # The time is up; messages has why.
    end

    module Public
      # Whatever stops the flush: who calls this must not go on.
      def exit!(...)
        Processes.flush
      ensure
        super
      end

      def exec(...)
        Processes.flush
        super
      end
    end

    module Private
      include Public
      private :exit!, :exec
    end

    module Daemon
      def daemon(...)
        Processes.flush
        super
      end
    end

    Kernel.prepend(Private)
    Kernel.singleton_class.prepend(Public)
    Process.singleton_class.prepend(Public, Daemon)
  end
  private_constant :Processes
end
