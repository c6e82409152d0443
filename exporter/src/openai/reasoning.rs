//! Leaves out what a model thought, which the ingest is not to get: whole items of that type, and parts of what the
//! assistant said. Only messages of the known shapes are looked at, not what users put into them.

use super::json::Json;

/// Fields of an assistant's message.
const FIELDS: [&str; 4] = ["reasoning", "reasoning_content", "thinking_blocks", "thinking"];
/// Types of parts of its content.
const PARTS: [&str; 2] = ["thinking", "redacted_thinking"];

/// Of a generation's input or output; other than a list of messages it stays as it is.
pub(super) fn leave_out(messages: &mut Json<'_>) {
    let Json::Array(items) = messages else { return };
    leave_out_of_items(items);
    for item in items {
        if item.get("object").is_some_and(|object| object.is("response"))
            && let Json::Object(fields) = item
            && let Some((_, Json::Array(items))) =
                fields.iter_mut().rev().find(|(key, _)| key == "output")
        {
            leave_out_of_items(items);
        }
    }
}

fn leave_out_of_items(items: &mut Vec<Json<'_>>) {
    items.retain(|item| !has_type(item, &["reasoning"]));
    for item in items {
        if !item.get("role").is_some_and(|role| role.is("assistant")) {
            continue;
        }
        let Json::Object(fields) = item else { continue };
        fields.retain(|(key, _)| !FIELDS.contains(&&**key));
        for (key, value) in fields {
            if key == "content"
                && let Json::Array(parts) = value
            {
                parts.retain(|part| !has_type(part, &PARTS));
            }
        }
    }
}

fn has_type(item: &Json<'_>, types: &[&str]) -> bool {
    item.get("type").is_some_and(|own| types.iter().any(|text| own.is(text)))
}
