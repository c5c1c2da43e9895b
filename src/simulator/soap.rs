//! SOAP as a host reads and writes it: requests checked against the declarations, answers, faults.

use super::properties;
use super::schema::{self, Field, Occurs, TypeKind};
use super::value::{Moref, Value};
use super::vim_fault::Fault;
use crate::esx::soap::xml::{Document, Element, Writer};

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";

/// A request: the method and what it is called on. The parameters are read from the document.
pub struct Request {
    document: Document,
    pub method: String,
    pub target: Moref,
    /// `operationID` of the header.
    pub operation_id: Option<String>,
}

impl Request {
    /// Reads a request and checks it as a host does: known children, in their order, none missing.
    pub fn read(body: &[u8]) -> Result<Self, Fault> {
        let document = Document::parse(body)
            .map_err(|error| Fault::unreadable(format!("XML error: {error}")))?;
        let root = document.root();
        if !root.is(ENVELOPE, "Envelope") {
            return Err(Fault::unreadable("The request is no SOAP envelope."));
        }
        let operation_id = root.descend(&["Header", "operationID"]).map(|id| id.text().to_owned());
        let call = method_element(&document)
            .ok_or_else(|| Fault::unreadable("The SOAP body is empty."))?;
        let method = call.name().to_owned();
        if !call.namespace().starts_with("urn:") {
            return Err(Fault::unreadable(format!("Unknown namespace of the method {method}.")));
        }
        let target = call.children().next().filter(|first| first.name() == "_this");
        let target =
            target.ok_or_else(|| Fault::unreadable("_this is not the first parameter."))?;
        let target = read_moref(target)?;
        if let Some(declared) = schema::method(&method) {
            if !schema::is_a(target.kind, declared.target) {
                return Err(Fault::method_not_found(&target, &method));
            }
            check_children(&method, call.children().skip(1), &declared.parameters)?;
        }
        Ok(Self { document, method, target, operation_id })
    }

    /// The method's element, with the parameters as its children.
    pub fn call(&self) -> Element<'_> {
        // `read` has found it.
        method_element(&self.document).unwrap_or_else(|| self.document.root())
    }

    /// The text of a parameter.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.call().child_text(name)
    }

    /// A parameter that must be there; the declarations say so, and `read` has checked.
    pub fn required(&self, name: &str) -> Result<&str, Fault> {
        self.text(name).ok_or_else(|| Fault::invalid_argument(name))
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.text(name).is_some_and(is_true)
    }

    /// All texts of a repeated parameter.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.call().children_named(name).map(|child| child.text().to_owned()).collect()
    }

    /// All references of a repeated parameter.
    pub fn morefs(&self, name: &str) -> Result<Vec<Moref>, Fault> {
        self.call().children_named(name).map(read_moref).collect()
    }
}

fn method_element(document: &Document) -> Option<Element<'_>> {
    document.root().child("Body")?.children().next()
}

/// A reference. One to a type that no object here has leads nowhere.
pub fn read_moref(element: Element<'_>) -> Result<Moref, Fault> {
    let kind = element.attribute("type").ok_or_else(|| {
        Fault::unreadable(format!("The reference {} does not say its type.", element.name()))
    })?;
    let id = element.text().trim();
    match properties::managed_type(kind) {
        Some(kind) => Ok(Moref::new(kind, id)),
        None => Err(Fault::not_found(&Moref { kind: "ManagedEntity", id: id.to_owned() })),
    }
}

/// `true` and `1`, in the spellings of XML Schema and of Python.
pub fn is_true(text: &str) -> bool {
    matches!(text.trim(), "true" | "True" | "1")
}

/// Checks children against declared fields: each known, in order, and no required one missing.
fn check_children<'d>(
    holder: &str,
    children: impl Iterator<Item = Element<'d>>,
    fields: &'static [Field],
) -> Result<(), Fault> {
    let mut open: Vec<(String, Vec<Element<'d>>, &'static [Field])> =
        vec![(holder.to_owned(), children.collect(), fields)];
    while let Some((holder, children, fields)) = open.pop() {
        let mut at = 0;
        for child in &children {
            let found = fields[at..].iter().position(|field| field.name == child.name());
            let Some(ahead) = found else {
                return Err(Fault::unreadable(format!(
                    "Unexpected element tag \"{}\" seen while parsing call information for {holder}",
                    child.name()
                )));
            };
            let skipped = &fields[at..at + ahead];
            check_required(&holder, skipped)?;
            at += ahead;
            let field = &fields[at];
            // A repeated one may come again.
            if field.occurs != Occurs::Repeated {
                at += 1;
            }
            let type_name = child.type_name().unwrap_or(field.type_name);
            if !field.reference
                && schema::kind(type_name) == Some(TypeKind::Data)
                && let Some(fields) = schema::fields(type_name)
            {
                open.push((type_name.to_owned(), child.children().collect(), fields));
            }
        }
        check_required(&holder, &fields[at..])?;
    }
    Ok(())
}

fn check_required(holder: &str, fields: &[Field]) -> Result<(), Fault> {
    match fields.iter().find(|field| field.occurs == Occurs::Once) {
        None => Ok(()),
        Some(field) => Err(Fault::unreadable(format!(
            "Required parameter {} is missing while parsing call information for {holder}",
            field.name
        ))),
    }
}

/// The answer to a method, whose body `write` fills with `returnval`s.
pub fn answer(
    method: &str,
    write: impl FnOnce(&mut Writer) -> Result<(), Fault>,
) -> Result<String, Fault> {
    let mut writer = envelope();
    writer.start(&format!("{method}Response"), &[("xmlns", "urn:vim25")]);
    write(&mut writer)?;
    Ok(writer.finish())
}

/// An answer without a value.
pub fn empty_answer(method: &str) -> Result<String, Fault> {
    answer(method, |_| Ok(()))
}

/// An answer with one value of a declared type; a list is as many values as it has items.
pub fn answer_value(method: &str, value: &Value, declared: &str) -> Result<String, Fault> {
    answer(method, |writer| {
        value.write_as(writer, "returnval", declared);
        Ok(())
    })
}

/// A SOAP fault.
pub fn fault(fault: &Fault) -> String {
    let mut writer = envelope();
    writer
        .start("soapenv:Fault", &[])
        .leaf("faultcode", &[], "ServerFaultCode")
        .leaf("faultstring", &[], &fault.message)
        .start("detail", &[]);
    if !fault.type_name.is_empty() {
        let name = format!("{}Fault", fault.type_name);
        writer.start(&name, &[("xmlns", "urn:vim25"), ("xsi:type", fault.type_name)]);
        fault.object().write_fields(&mut writer);
    }
    writer.finish()
}

fn envelope() -> Writer {
    let mut writer = Writer::new();
    writer
        .start(
            "soapenv:Envelope",
            &[
                ("xmlns:soapenv", ENVELOPE),
                ("xmlns:xsd", "http://www.w3.org/2001/XMLSchema"),
                ("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance"),
            ],
        )
        .start("soapenv:Body", &[]);
    writer
}
