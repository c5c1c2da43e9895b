//! SOAP as a host reads and writes it: requests, which are checked against the schema, answers and
//! faults.

use super::properties;
use super::schema::{self, Field, Occurs, TypeKind};
use super::value::{Moref, Value};
use super::vim_fault::Fault;
use crate::esx::soap::xml::{Document, Element, Writer};

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";

/// A request to call one method. Its parameters are read from the XML document on demand.
pub struct Request {
    document: Document,
    pub method: String,
    /// The object that the method is called on.
    pub target: Moref,
    /// The `operationID` from the header of the request. `None` if the header has none.
    pub operation_id: Option<String>,
}

impl Request {
    /// Reads a request and checks its parameters as a host does: every parameter is known, they are
    /// in the declared order, and no required parameter is missing.
    ///
    /// # Errors
    /// A fault without detail if the request is not what the schema declares, `MethodNotFound` if
    /// the target has no such method, `ManagedObjectNotFound` for a reference to an unknown type.
    pub fn read(body: &[u8]) -> Result<Self, Fault> {
        let document = Document::parse(body)
            .map_err(|error| Fault::unreadable(format!("XML error: {error}")))?;
        let root = document.root();
        if !root.is(ENVELOPE, "Envelope") {
            return Err(Fault::unreadable("The request is not a SOAP envelope."));
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

    /// The XML element of the called method, whose children are the parameters.
    pub fn call(&self) -> Element<'_> {
        // `Request::read` has checked that the method element exists, so the root is never used.
        method_element(&self.document).unwrap_or_else(|| self.document.root())
    }

    /// The text of a parameter. `None` if the parameter is absent.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.call().child_text(name)
    }

    /// The text of a parameter that the method needs. `Request::read` has already checked the
    /// parameters that the schema requires.
    ///
    /// # Errors
    /// `InvalidArgument` if the parameter is absent.
    pub fn required(&self, name: &str) -> Result<&str, Fault> {
        self.text(name).ok_or_else(|| Fault::invalid_argument(name))
    }

    /// Whether a boolean parameter is true.
    pub fn is_set(&self, name: &str) -> bool {
        self.text(name).is_some_and(is_true)
    }

    /// The texts of all occurrences of a repeated parameter.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.call().children_named(name).map(|child| child.text().to_owned()).collect()
    }

    /// The references in all occurrences of a repeated parameter.
    pub fn morefs(&self, name: &str) -> Result<Vec<Moref>, Fault> {
        self.call().children_named(name).map(read_moref).collect()
    }
}

fn method_element(document: &Document) -> Option<Element<'_>> {
    document.root().child("Body")?.children().next()
}

/// Reads a managed object reference from an XML element.
///
/// # Errors
/// A fault without detail if the type is missing, `ManagedObjectNotFound` if no object of the host
/// has this type.
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

/// Whether a text is a true boolean, in the spelling of XML Schema (`true`, `1`) or of Python
/// (`True`).
pub fn is_true(text: &str) -> bool {
    matches!(text.trim(), "true" | "True" | "1")
}

/// Checks the child elements of an element against the declared fields: every child is known, the
/// children are in the declared order, and no required field is missing. Data objects among the
/// children are checked in the same way.
fn check_children<'d>(
    parent: &str,
    children: impl Iterator<Item = Element<'d>>,
    fields: &'static [Field],
) -> Result<(), Fault> {
    let mut open: Vec<(String, Vec<Element<'d>>, &'static [Field])> =
        vec![(parent.to_owned(), children.collect(), fields)];
    while let Some((parent, children, fields)) = open.pop() {
        let mut at = 0;
        for child in &children {
            let found = fields[at..].iter().position(|field| field.name == child.name());
            let Some(ahead) = found else {
                return Err(Fault::unreadable(format!(
                    "Unexpected element tag \"{}\" seen while parsing call information for \
                     {parent}",
                    child.name()
                )));
            };
            let skipped = &fields[at..at + ahead];
            check_required(&parent, skipped)?;
            at += ahead;
            let field = &fields[at];
            // After a field that is not repeated, the check goes on to the next declaration. After
            // a repeated field it stays, because the next child may repeat the field.
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
        check_required(&parent, &fields[at..])?;
    }
    Ok(())
}

fn check_required(parent: &str, fields: &[Field]) -> Result<(), Fault> {
    match fields.iter().find(|field| field.occurs == Occurs::Once) {
        None => Ok(()),
        Some(field) => Err(Fault::unreadable(format!(
            "Required parameter {} is missing while parsing call information for {parent}",
            field.name
        ))),
    }
}

/// The SOAP answer to a method. `write` writes the elements `returnval`.
pub fn answer(
    method: &str,
    write: impl FnOnce(&mut Writer) -> Result<(), Fault>,
) -> Result<String, Fault> {
    let mut writer = envelope();
    writer.start(&format!("{method}Response"), &[("xmlns", "urn:vim25")]);
    write(&mut writer)?;
    Ok(writer.finish())
}

/// The SOAP answer to a method that returns no value.
pub fn empty_answer(method: &str) -> Result<String, Fault> {
    answer(method, |_| Ok(()))
}

/// The SOAP answer to a method that returns a value of the declared type. A list is written as one
/// element `returnval` for each item.
pub fn answer_value(method: &str, value: &Value, declared: &str) -> Result<String, Fault> {
    answer(method, |writer| {
        value.write_as(writer, "returnval", declared);
        Ok(())
    })
}

/// The SOAP answer that carries a fault.
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
