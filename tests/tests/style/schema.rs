//! proto/cri/runtime.proto against the CRI's own descriptor.

use std::collections::{BTreeMap, BTreeSet};

use criquet_tests::{run, workspace};
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind};
use serde_json::Value;

/// A field as both sides tell it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Field {
    name: String,
    kind: String,
    message: String,
    repeated: bool,
}

#[derive(Debug, Default)]
struct Schema {
    /// Message → number → field.
    messages: BTreeMap<String, BTreeMap<u32, Field>>,
    /// Enum → value → name.
    enums: BTreeMap<String, BTreeMap<i32, String>>,
    /// "Service.Call(Input) -> [stream] Output".
    calls: BTreeSet<String>,
}

/// Only Windows uses these; the repository's proto leaves them out.
fn windows(name: &str) -> bool {
    name.to_lowercase().contains("windows")
}

fn short(name: &str) -> String {
    name.trim_start_matches("runtime.v1.").to_string()
}

fn call(service: &str, name: &str, input: &str, output: &str, stream: bool) -> String {
    let stream = if stream { "stream " } else { "" };
    format!(
        "{}.{name}({}) -> {stream}{}",
        short(service),
        short(input),
        short(output)
    )
}

fn theirs() -> Schema {
    let text = run(workspace().join(".work/bin/tools/descriptor"), &[]).ok();
    let value: Value = serde_json::from_str(&text).expect("parse the descriptor");
    let string = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let mut schema = Schema::default();
    for (name, fields) in value["messages"].as_object().expect("messages") {
        if windows(name) {
            continue;
        }
        let fields = fields
            .as_array()
            .expect("fields")
            .iter()
            .filter(|field| !windows(&string(&field["name"])));
        let fields = fields.map(|field| {
            let number = u32::try_from(field["number"].as_u64().expect("a number")).expect("a small number");
            let field = Field {
                name: string(&field["name"]),
                kind: string(&field["kind"]),
                message: short(&string(&field["type"])),
                repeated: field["repeated"].as_bool().unwrap_or_default(),
            };
            (number, field)
        });
        schema.messages.insert(short(name), fields.collect());
    }
    for (name, values) in value["enums"].as_object().expect("enums") {
        let values = values.as_object().expect("values").iter();
        let values = values.map(|(name, number)| {
            (
                i32::try_from(number.as_i64().unwrap_or(-1)).unwrap_or(-1),
                name.clone(),
            )
        });
        schema.enums.insert(short(name), values.collect());
    }
    for (service, calls) in value["services"].as_object().expect("services") {
        for one in calls.as_array().expect("calls") {
            let stream = one["server_stream"].as_bool().unwrap_or_default();
            let (input, output) = (string(&one["input"]), string(&one["output"]));
            schema
                .calls
                .insert(call(service, &string(&one["name"]), &input, &output, stream));
        }
    }
    schema
}

fn ours() -> Schema {
    let folder = workspace().join("proto/cri");
    let files = protox::compile(["runtime.proto"], [folder]).expect("compile proto/cri/runtime.proto");
    let pool = DescriptorPool::from_file_descriptor_set(files).expect("a descriptor pool");
    let mut schema = Schema::default();
    for message in pool.all_messages() {
        let fields = message.fields().map(|field| (field.number(), of(&field)));
        schema
            .messages
            .insert(short(message.full_name()), fields.collect());
    }
    for one in pool.all_enums() {
        let values = one
            .values()
            .map(|value| (value.number(), value.name().to_string()));
        schema.enums.insert(short(one.full_name()), values.collect());
    }
    for service in pool.services() {
        for method in service.methods() {
            let (input, output) = (method.input(), method.output());
            schema.calls.insert(call(
                service.full_name(),
                method.name(),
                input.full_name(),
                output.full_name(),
                method.is_server_streaming(),
            ));
        }
    }
    schema
}

fn of(field: &FieldDescriptor) -> Field {
    let (kind, message) = match field.kind() {
        Kind::Message(message) => ("message".to_string(), short(message.full_name())),
        Kind::Enum(one) => ("enum".to_string(), short(one.full_name())),
        kind => (format!("{kind:?}").to_lowercase(), String::new()),
    };
    Field {
        name: field.name().to_string(),
        kind,
        message,
        repeated: field.is_list() || field.is_map(),
    }
}

#[test]
fn the_proto_is_the_cris() {
    let (ours, theirs) = (ours(), theirs());
    let mut problems = Vec::new();
    for (name, fields) in &theirs.messages {
        let Some(have) = ours.messages.get(name) else {
            problems.push(format!("message {name} is missing"));
            continue;
        };
        for (number, field) in fields {
            if have.get(number) != Some(field) {
                problems.push(format!(
                    "{name} {number}: theirs {field:?}, ours {:?}",
                    have.get(number)
                ));
            }
        }
        let more = have.iter().filter(|(number, _)| !fields.contains_key(number));
        problems.extend(more.map(|(number, field)| format!("{name} {number}: only ours: {field:?}")));
    }
    let more = ours
        .messages
        .keys()
        .filter(|name| !theirs.messages.contains_key(*name));
    problems.extend(more.map(|name| format!("message {name} is only ours")));
    for (name, values) in &theirs.enums {
        if ours.enums.get(name) != Some(values) {
            problems.push(format!(
                "enum {name}: theirs {values:?}, ours {:?}",
                ours.enums.get(name)
            ));
        }
    }
    problems.extend(
        theirs
            .calls
            .difference(&ours.calls)
            .map(|call| format!("call {call} is missing")),
    );
    problems.extend(
        ours.calls
            .difference(&theirs.calls)
            .map(|call| format!("call {call} is only ours")),
    );
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
    assert!(theirs.calls.len() >= 43, "the descriptor has all calls");
}
