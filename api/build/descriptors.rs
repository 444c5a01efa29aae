//! Writes the message descriptors as Rust statics: see `src/descriptor.rs`, which includes them.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What clients see. Members' own messages have no names on any wire.
const PACKAGES: [&str; 5] = ["mvccpb", "authpb", "etcdserverpb", "v3lockpb", "v3electionpb"];

/// Members' own.
const INTERNAL: [&str; 1] = ["cleatpb"];

type Error = Box<dyn std::error::Error>;

/// Everything that is described, by full name with the leading dot of references.
#[derive(Default)]
struct Descriptors<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
    /// With their packages.
    services: Vec<(&'a str, &'a ServiceDescriptorProto)>,
}

/// The source of the statics.
///
/// # Errors
/// A field has a type that `descriptor::Kind` does not have.
pub(crate) fn source(files: &FileDescriptorSet) -> Result<String, Error> {
    let mut all = Descriptors::of(files, &PACKAGES);
    all.keep_used();
    let mut out = all.source()?;
    writeln!(out, "/// Every method of etcd's API.\npub static METHODS: &[Method] = &[")?;
    for (package, service) in all.services {
        for method in &service.method {
            writeln!(
                out,
                "Method {{ path: \"/{package}.{}/{}\", input: &{}, output: &{}, is_client_stream: {}, is_server_stream: {} }},",
                service.name(),
                method.name(),
                ident(method.input_type()),
                ident(method.output_type()),
                method.client_streaming(),
                method.server_streaming(),
            )?;
        }
    }
    writeln!(out, "];")?;
    Ok(out)
}

/// The source of what the tests walk: every message there is, members' own included, with how it is printed.
///
/// # Errors
/// As [`source`].
pub(crate) fn source_for_tests(files: &FileDescriptorSet) -> Result<String, Error> {
    let all = Descriptors::of(files, &[&PACKAGES[..], &INTERNAL].concat());
    let mut out = all.source()?;
    writeln!(out, "static MESSAGES: &[(&Message, fn(&[u8]) -> Option<String>)] = &[")?;
    for name in all.messages.keys() {
        // Invariant: no message is defined within another one.
        let (package, message) = name[1..].split_once('.').ok_or("a message has a package")?;
        writeln!(out, "(&{}, printed::<crate::{package}::{}>),", ident(name), type_name(message))?;
    }
    writeln!(out, "];")?;
    Ok(out)
}

impl<'a> Descriptors<'a> {
    fn of(files: &'a FileDescriptorSet, packages: &[&str]) -> Self {
        let mut all = Self::default();
        for file in files.file.iter().filter(|file| packages.contains(&file.package())) {
            let scope = format!(".{}", file.package());
            all.enums.extend(file.enum_type.iter().map(|kind| (format!("{scope}.{}", kind.name()), kind)));
            for message in &file.message_type {
                all.add(&scope, message);
            }
            all.services.extend(file.service.iter().map(|service| (file.package(), service)));
        }
        all
    }

    /// The statics of enums and messages.
    fn source(&self) -> Result<String, Error> {
        let mut out = String::new();
        for (name, kind) in &self.enums {
            let values: Vec<_> = kind.value.iter().map(|value| (value.name(), value.number())).collect();
            writeln!(out, "static {}: Enum = Enum {{ name: {:?}, values: &{values:?} }};", ident(name), &name[1..])?;
        }
        for (name, message) in &self.messages {
            writeln!(out, "static {}: Message = Message {{ name: {:?}, fields: &[", ident(name), &name[1..])?;
            for field in &message.field {
                out.push_str(&source_of_field(message, field)?);
            }
            writeln!(out, "] }};")?;
        }
        Ok(out)
    }

    fn add(&mut self, scope: &str, message: &'a DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        self.enums.extend(message.enum_type.iter().map(|kind| (format!("{name}.{}", kind.name()), kind)));
        for nested in &message.nested_type {
            self.add(&name, nested);
        }
        self.messages.insert(name, message);
    }

    /// Leaves out what no method sends or receives.
    fn keep_used(&mut self) {
        let methods = self.services.iter().flat_map(|(_, service)| &service.method);
        let mut open: Vec<&str> = methods.flat_map(|method| [method.input_type(), method.output_type()]).collect();
        let mut used = BTreeSet::new();
        while let Some(name) = open.pop() {
            if used.insert(name)
                && let Some(message) = self.messages.get(name)
            {
                open.extend(message.field.iter().map(FieldDescriptorProto::type_name).filter(|name| !name.is_empty()));
            }
        }
        self.messages.retain(|name, _| used.contains(name.as_str()));
        self.enums.retain(|name, _| used.contains(name.as_str()));
    }
}

fn source_of_field(message: &DescriptorProto, field: &FieldDescriptorProto) -> Result<String, Error> {
    let kind = match field.r#type() {
        Type::Bool => "Bool".to_owned(),
        Type::Int32 => "Int32".to_owned(),
        Type::Int64 => "Int64".to_owned(),
        Type::Uint32 => "Uint32".to_owned(),
        Type::Uint64 => "Uint64".to_owned(),
        Type::String => "String".to_owned(),
        Type::Bytes => "Bytes".to_owned(),
        Type::Enum => format!("Enum(&{})", ident(field.type_name())),
        Type::Message => format!("Message(&{})", ident(field.type_name())),
        other => return Err(format!("{}.{}: no descriptor for {other:?}", message.name(), field.name()).into()),
    };
    let oneof = match field.oneof_index {
        Some(index) => format!("Some({index})"),
        None => "None".to_owned(),
    };
    Ok(format!(
        "Field {{ name: {:?}, json_name: {:?}, number: {}, kind: Kind::{kind}, is_repeated: {}, oneof: {oneof} }},\n",
        field.name(),
        field.json_name(),
        field.number(),
        field.label() == Label::Repeated,
    ))
}

/// The name that prost gives the type: of capitals that follow each other only the first and the last stay.
fn type_name(message: &str) -> String {
    let chars: Vec<char> = message.chars().collect();
    let is_upper = |at: usize| chars.get(at).is_some_and(char::is_ascii_uppercase);
    let is_lower = |at: usize| chars.get(at).is_some_and(char::is_ascii_lowercase);
    let within = |at: usize| at > 0 && is_upper(at - 1) && !is_lower(at + 1);
    chars.iter().enumerate().map(|(at, c)| if within(at) { c.to_ascii_lowercase() } else { *c }).collect()
}

/// The name of a static.
fn ident(name: &str) -> String {
    name.trim_start_matches('.').replace('.', "_").to_uppercase()
}
