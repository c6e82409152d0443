//! HTTP/1.1 over non-blocking sockets, for the sinks that speak it.
