#![allow(dead_code, missing_docs, unused, missing_debug_implementations)]
use crate::batch::*;
use crate::model::SpanBatch;
use spanring::record::Records;
pub struct Writer;
impl Writer {
    pub fn new() -> Self {
        Writer
    }
    pub fn write_records<C: TickClock + ?Sized>(
        &mut self,
        r: &Records,
        c: &BatchContext<'_, C>,
        out: &mut Vec<u8>,
    ) -> Result<(), BatchError> {
        Ok(())
    }
    pub fn write_batch(&mut self, b: &SpanBatch, r: std::ops::Range<usize>, out: &mut Vec<u8>) {}
}
#[derive(Default)]
pub struct PartialSuccess {
    pub rejected_spans: i64,
    pub error_message: String,
}
pub fn parse_response(b: &[u8]) -> Result<PartialSuccess, ()> {
    Err(())
}
pub fn status_message(b: &[u8]) -> Option<String> {
    None
}
