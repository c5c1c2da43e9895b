//! Parses XML into a tree with resolved namespaces, and writes XML. The code does no I/O, has
//! limits for all sizes, and is not recursive.
//!
//! The tree is an arena, so that parsing and dropping a document need no stack: snapshot trees nest
//! thousands of levels deep. An element has no memory of its own: each name is stored once, and all
//! texts are stored together. Only the five predefined entities are expanded, and a document with a
//! document type is refused. Characters that XML forbids become U+FFFD. Hosts send such characters
//! in annotations, and one of them must not make the whole answer unusable.

use std::collections::HashMap;
use std::fmt;

use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{QName, ResolveResult};

/// The XML namespace of the attribute `xsi:type`.
const SCHEMA_INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// The maximum nesting depth of a document. A chain of snapshots takes one level for each snapshot.
pub const MAX_DEPTH: usize = 16_384;

/// The maximum number of elements in a document. A host with 1,000 machines sends about 400,000.
const MAX_ELEMENTS: usize = 8_000_000;

/// Why a document cannot be parsed.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    #[error("the answer is not well-formed XML")]
    Malformed(#[source] quick_xml::Error),
    #[error("the answer ends before its last element is closed")]
    Truncated,
    #[error("the answer has no element")]
    Empty,
    #[error("the answer has text or elements after its root")]
    TrailingContent,
    #[error("the answer has a document type declaration, which SOAP forbids")]
    DocumentType,
    #[error("the answer uses the entity &{0};, which nothing declares")]
    UnknownEntity(String),
    #[error("the answer nests deeper than {MAX_DEPTH} elements")]
    TooDeep,
    #[error("the answer has more than {MAX_ELEMENTS} elements")]
    TooManyElements,
    #[error("the answer is encoded as {0}, but only UTF-8 is supported")]
    Encoding(String),
}

/// A parsed document.
#[derive(Clone, Debug)]
pub struct Document {
    nodes: Vec<Node>,
    /// The namespaces and local names, each stored once. The first one is the empty name.
    names: Vec<String>,
    /// The attributes that have no namespace, in the order of their elements.
    attributes: Vec<Attribute>,
    /// The values of all attributes, and the texts of those elements whose text is in one piece.
    texts: String,
    /// The texts of those elements that have text between their children.
    mixed_texts: Vec<String>,
}

#[derive(Clone, Debug)]
struct Node {
    /// The index of the element's namespace in the names of the document.
    namespace: u32,
    /// The index of the element's local name in the names of the document.
    name: u32,
    /// The namespace and the local name in the attribute `xsi:type`, as indices into the names of
    /// the document. The prefix is resolved.
    type_name: Option<(u32, u32)>,
    attributes: Span,
    text: Text,
    first_child: Option<u32>,
    last_child: Option<u32>,
    next_sibling: Option<u32>,
}

#[derive(Clone, Debug)]
struct Attribute {
    name: u32,
    value: Span,
}

/// A range in a list or in a text of the document.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Clone, Copy, Debug)]
enum Text {
    /// The text is this part of the document's `texts`.
    Span(Span),
    /// The text is the entry of the document's `mixed_texts` with this index.
    Mixed(u32),
}

impl Span {
    /// Makes the range from `start` to `end`.
    ///
    /// # Errors
    /// Fails if the document is larger than 4 GiB.
    fn new(start: usize, end: usize) -> Result<Self, XmlError> {
        let index = |at| u32::try_from(at).map_err(|_| XmlError::TooManyElements);
        Ok(Self { start: index(start)?, end: index(end)? })
    }

    const fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One element of a document.
#[derive(Clone, Copy)]
pub struct Element<'d> {
    document: &'d Document,
    index: u32,
}

impl Document {
    /// Parses a document.
    ///
    /// # Errors
    /// [`XmlError`] says what is wrong. Its message contains no part of the input, except the name
    /// of an entity or an encoding.
    pub fn parse(bytes: &[u8]) -> Result<Self, XmlError> {
        if bytes.starts_with(&[0xFE, 0xFF]) || bytes.starts_with(&[0xFF, 0xFE]) {
            return Err(XmlError::Encoding("UTF-16".to_owned()));
        }
        let text = String::from_utf8_lossy(bytes);
        TreeBuilder::new().build(text.trim_start_matches('\u{feff}'))
    }

    /// The root element of the document.
    #[must_use]
    pub fn root(&self) -> Element<'_> {
        Element { document: self, index: 0 }
    }
}

impl<'d> Element<'d> {
    /// The local name of the element.
    #[must_use]
    pub fn name(self) -> &'d str {
        &self.document.names[self.node().name as usize]
    }

    /// The namespace of the element. Empty if the element has no namespace.
    #[must_use]
    pub fn namespace(self) -> &'d str {
        &self.document.names[self.node().namespace as usize]
    }

    /// Whether the element has this namespace and this local name.
    #[must_use]
    pub fn is(self, namespace: &str, name: &str) -> bool {
        self.name() == name && self.namespace() == namespace
    }

    /// The local name in the attribute `xsi:type`. `None` if the element has no `xsi:type`.
    #[must_use]
    pub fn type_name(self) -> Option<&'d str> {
        let (_, name) = self.node().type_name?;
        Some(&self.document.names[name as usize])
    }

    /// The namespace in the attribute `xsi:type`. Empty if its prefix is not declared. `None` if
    /// the element has no `xsi:type`.
    #[must_use]
    pub fn type_namespace(self) -> Option<&'d str> {
        let (namespace, _) = self.node().type_name?;
        Some(&self.document.names[namespace as usize])
    }

    /// The value of an attribute that has no namespace, for example `type` of a managed object
    /// reference.
    #[must_use]
    pub fn attribute(self, name: &str) -> Option<&'d str> {
        let document = self.document;
        let attributes = &document.attributes[self.node().attributes.range()];
        let found =
            attributes.iter().find(|attribute| document.names[attribute.name as usize] == name)?;
        Some(&document.texts[found.value.range()])
    }

    /// The text of the element without the texts of its children. Entities are resolved, and space
    /// at the ends is kept.
    #[must_use]
    pub fn text(self) -> &'d str {
        match self.node().text {
            Text::Span(span) => &self.document.texts[span.range()],
            Text::Mixed(index) => &self.document.mixed_texts[index as usize],
        }
    }

    /// The child elements, in the order of the document.
    pub fn children(self) -> impl Iterator<Item = Element<'d>> + use<'d> {
        let document = self.document;
        let mut next = self.node().first_child;
        std::iter::from_fn(move || {
            let index = next?;
            next = document.nodes[index as usize].next_sibling;
            Some(Element { document, index })
        })
    }

    /// The first child element with this local name.
    #[must_use]
    pub fn child(self, name: &str) -> Option<Element<'d>> {
        self.children().find(|child| child.name() == name)
    }

    /// All child elements with this local name.
    pub fn children_named(self, name: &str) -> impl Iterator<Item = Element<'d>> + use<'d, '_> {
        self.children().filter(move |child| child.name() == name)
    }

    /// The text of the first child element with this local name.
    #[must_use]
    pub fn child_text(self, name: &str) -> Option<&'d str> {
        self.child(name).map(Element::text)
    }

    /// The element that is reached by going, for each name in turn, to the first child with this
    /// name.
    #[must_use]
    pub fn descend(self, names: &[&str]) -> Option<Element<'d>> {
        names.iter().try_fold(self, |element, name| element.child(name))
    }

    fn node(self) -> &'d Node {
        &self.document.nodes[self.index as usize]
    }
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "<{}>", self.name())
    }
}

struct TreeBuilder {
    document: Document,
    known_names: HashMap<String, u32>,
    open: Vec<u32>,
}

impl TreeBuilder {
    fn new() -> Self {
        let document = Document {
            nodes: Vec::new(),
            names: vec![String::new()],
            attributes: Vec::new(),
            texts: String::new(),
            mixed_texts: Vec::new(),
        };
        let known_names = HashMap::from([(String::new(), 0)]);
        Self { document, known_names, open: Vec::new() }
    }

    fn build(mut self, text: &str) -> Result<Document, XmlError> {
        let mut reader = NsReader::from_str(text);
        loop {
            match reader.read_event().map_err(malformed_or_truncated)? {
                Event::Start(start) => {
                    let index = self.add(&reader, &start)?;
                    if self.open.len() >= MAX_DEPTH {
                        return Err(XmlError::TooDeep);
                    }
                    self.open.push(index);
                }
                Event::Empty(start) => {
                    self.add(&reader, &start)?;
                }
                Event::End(_) => {
                    self.open.pop();
                }
                Event::Text(text) => self.append(&text)?,
                Event::CData(text) => self.append(&text)?,
                Event::GeneralRef(reference) => {
                    let resolved = resolve(&reference)?;
                    self.append(resolved.encode_utf8(&mut [0; 4]))?;
                }
                Event::DocType(_) => return Err(XmlError::DocumentType),
                Event::Decl(declaration) => check_encoding(&declaration)?,
                Event::Comment(_) | Event::PI(_) => {}
                Event::Eof if !self.open.is_empty() => return Err(XmlError::Truncated),
                Event::Eof if self.document.nodes.is_empty() => return Err(XmlError::Empty),
                Event::Eof => return Ok(self.document),
            }
        }
    }

    fn add(&mut self, reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<u32, XmlError> {
        let parent = self.open.last().copied();
        if parent.is_none() && !self.document.nodes.is_empty() {
            return Err(XmlError::TrailingContent);
        }
        if self.document.nodes.len() >= MAX_ELEMENTS {
            return Err(XmlError::TooManyElements);
        }
        let (namespace, local) = reader.resolver().resolve_element(start.name());
        let first_attribute = self.document.attributes.len();
        let mut node = Node {
            namespace: self.namespace(&namespace),
            name: self.name(local.as_ref()),
            type_name: None,
            attributes: Span::default(),
            text: Text::Span(Span::default()),
            first_child: None,
            last_child: None,
            next_sibling: None,
        };
        for attribute in start.attributes().with_checks(false) {
            let attribute = attribute
                .map_err(|error| XmlError::Malformed(quick_xml::Error::InvalidAttr(error)))?;
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            match reader.resolver().resolve_attribute(attribute.key) {
                (ResolveResult::Bound(namespace), local)
                    if namespace.as_ref() == SCHEMA_INSTANCE && local.as_ref() == "type" =>
                {
                    let mut value = String::new();
                    unescape_into(&mut value, &attribute.value)?;
                    let (namespace, local) = reader.resolver().resolve_element(QName(value.trim()));
                    node.type_name = Some((self.namespace(&namespace), self.name(local.as_ref())));
                }
                (ResolveResult::Unbound, local) => {
                    let start = self.document.texts.len();
                    unescape_into(&mut self.document.texts, &attribute.value)?;
                    let value = Span::new(start, self.document.texts.len())?;
                    let name = self.name(local.as_ref());
                    self.document.attributes.push(Attribute { name, value });
                }
                _ => {}
            }
        }
        node.attributes = Span::new(first_attribute, self.document.attributes.len())?;
        // The conversion always succeeds, because the limit MAX_ELEMENTS is far below the largest
        // `u32`.
        let index =
            u32::try_from(self.document.nodes.len()).map_err(|_| XmlError::TooManyElements)?;
        self.document.nodes.push(node);
        if let Some(parent) = parent {
            let before = self.document.nodes[parent as usize].last_child.replace(index);
            match before {
                Some(before) => self.document.nodes[before as usize].next_sibling = Some(index),
                None => self.document.nodes[parent as usize].first_child = Some(index),
            }
        }
        Ok(index)
    }

    fn append(&mut self, text: &str) -> Result<(), XmlError> {
        match self.open.last() {
            Some(index) => {
                let Document { nodes, texts, mixed_texts, .. } = &mut self.document;
                let known = &mut nodes[*index as usize].text;
                match *known {
                    Text::Mixed(index) => {
                        push_allowed(&mut mixed_texts[index as usize], text);
                    }
                    Text::Span(span) if span.range().is_empty() => {
                        let start = texts.len();
                        push_allowed(texts, text);
                        *known = Text::Span(Span::new(start, texts.len())?);
                    }
                    Text::Span(span) if span.end as usize == texts.len() => {
                        push_allowed(texts, text);
                        *known = Text::Span(Span::new(span.start as usize, texts.len())?);
                    }
                    // The text of a child lies between the two parts of this text in `texts`, so
                    // the two parts are joined in an entry of `mixed_texts`.
                    Text::Span(span) => {
                        let mut mixed = texts[span.range()].to_owned();
                        push_allowed(&mut mixed, text);
                        // The index always fits, because there are fewer mixed texts than elements.
                        let index = u32::try_from(mixed_texts.len()).unwrap_or(u32::MAX);
                        mixed_texts.push(mixed);
                        *known = Text::Mixed(index);
                    }
                }
                Ok(())
            }
            None if text.trim().is_empty() => Ok(()),
            None if self.document.nodes.is_empty() => Err(XmlError::Empty),
            None => Err(XmlError::TrailingContent),
        }
    }

    fn namespace(&mut self, resolved: &ResolveResult<'_>) -> u32 {
        let name = match resolved {
            ResolveResult::Bound(namespace) => namespace.as_ref(),
            // A prefix that is not declared is an error of the host, but the rest of the answer is
            // usable, so the namespace counts as empty.
            ResolveResult::Unbound | ResolveResult::Unknown(_) => "",
        };
        self.name(name)
    }

    /// The index of a name in the names of the document. A new name is added.
    fn name(&mut self, name: &str) -> u32 {
        if let Some(index) = self.known_names.get(name) {
            return *index;
        }
        // The index always fits: a document has less than 4 GiB of text, and so fewer names.
        let index = u32::try_from(self.document.names.len()).unwrap_or(0);
        self.document.names.push(name.to_owned());
        self.known_names.insert(name.to_owned(), index);
        index
    }
}

fn malformed_or_truncated(error: quick_xml::Error) -> XmlError {
    match error {
        quick_xml::Error::Syntax(_) => XmlError::Truncated,
        error => XmlError::Malformed(error),
    }
}

fn check_encoding(declaration: &quick_xml::events::BytesDecl<'_>) -> Result<(), XmlError> {
    match declaration.encoding() {
        Some(Ok(encoding))
            if !encoding.eq_ignore_ascii_case("utf-8")
                && !encoding.eq_ignore_ascii_case("us-ascii") =>
        {
            Err(XmlError::Encoding(encoding.chars().map(replace_forbidden).take(40).collect()))
        }
        _ => Ok(()),
    }
}

/// Appends the value of an attribute to `out`. References such as `&amp;` in it are resolved.
fn unescape_into(out: &mut String, raw: &str) -> Result<(), XmlError> {
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        push_allowed(out, &rest[..at]);
        let end = rest[at..].find(';').ok_or(XmlError::Truncated)? + at;
        out.push(resolve(&rest[at + 1..end])?);
        rest = &rest[end + 1..];
    }
    push_allowed(out, rest);
    Ok(())
}

/// Appends a text to `out`. Characters that XML forbids become U+FFFD.
fn push_allowed(out: &mut String, text: &str) {
    // Every forbidden character above U+001F begins with the byte 0xEF in UTF-8.
    let may_be_forbidden =
        |byte: &u8| *byte == 0xEF || (*byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r'));
    if text.as_bytes().iter().any(may_be_forbidden) {
        out.extend(text.chars().map(replace_forbidden));
    } else {
        out.push_str(text);
    }
}

/// The character for a reference such as `&amp;`. The parameter is the text between `&` and `;`.
fn resolve(reference: &str) -> Result<char, XmlError> {
    let number = match reference {
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "amp" => return Ok('&'),
        "apos" => return Ok('\''),
        "quot" => return Ok('"'),
        other => match (other.strip_prefix("#x"), other.strip_prefix('#')) {
            (Some(digits), _) => u32::from_str_radix(digits, 16),
            (None, Some(digits)) => digits.parse(),
            (None, None) => {
                let name = other.chars().map(replace_forbidden).take(40).collect();
                return Err(XmlError::UnknownEntity(name));
            }
        },
    };
    let character = number.ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
    Ok(replace_forbidden(character))
}

/// Returns the character itself, or U+FFFD if XML 1.0 forbids the character.
const fn replace_forbidden(character: char) -> char {
    match character {
        '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => {
            character
        }
        _ => char::REPLACEMENT_CHARACTER,
    }
}

/// Writes XML that is well-formed whatever the texts contain.
#[derive(Debug, Default)]
pub struct Writer {
    out: String,
    open: Vec<String>,
}

impl Writer {
    #[must_use]
    pub fn new() -> Self {
        Self { out: String::from(r#"<?xml version="1.0" encoding="UTF-8"?>"#), open: Vec::new() }
    }

    /// Opens an element. Names are not escaped, because they come from otter's code and never from
    /// input.
    pub fn start(&mut self, name: &str, attributes: &[(&str, &str)]) -> &mut Self {
        self.tag(name, attributes);
        self.out.push('>');
        self.open.push(name.to_owned());
        self
    }

    /// Closes the innermost element that is open.
    pub fn end(&mut self) -> &mut Self {
        if let Some(name) = self.open.pop() {
            self.out.push_str("</");
            self.out.push_str(&name);
            self.out.push('>');
        }
        self
    }

    /// Writes text into the innermost element that is open. The text is escaped.
    pub fn text(&mut self, text: &str) -> &mut Self {
        escape_into(&mut self.out, text);
        self
    }

    /// Writes an element that contains only text.
    pub fn leaf(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) -> &mut Self {
        self.start(name, attributes).text(text).end()
    }

    /// Closes all open elements and returns the XML text.
    #[must_use]
    pub fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.end();
        }
        self.out
    }

    fn tag(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.out.push('<');
        self.out.push_str(name);
        for (key, value) in attributes {
            self.out.push(' ');
            self.out.push_str(key);
            self.out.push_str("=\"");
            escape_into(&mut self.out, value);
            self.out.push('"');
        }
    }
}

fn escape_into(out: &mut String, text: &str) {
    for character in text.chars() {
        match replace_forbidden(character) {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // A carriage return is written as a reference, because a parser would turn a bare one
            // into a line feed.
            '\r' => out.push_str("&#13;"),
            character => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Document, XmlError> {
        Document::parse(text.as_bytes())
    }

    #[test]
    fn prefixes_are_resolved_in_names_and_in_type_values() {
        let document = parse(
            r#"<s:E xmlns:s="urn:soap" xmlns:v="urn:vim25"
                 xmlns:_x="http://www.w3.org/2001/XMLSchema-instance">
                 <v:val _x:type="v:VirtualMachine" type="VirtualMachine">16</v:val></s:E>"#,
        )
        .unwrap();
        let val = document.root().child("val").unwrap();
        assert!(document.root().is("urn:soap", "E"));
        assert!(val.is("urn:vim25", "val"));
        assert_eq!(
            (val.type_name(), val.type_namespace()),
            (Some("VirtualMachine"), Some("urn:vim25"))
        );
        assert_eq!((val.attribute("type"), val.text()), (Some("VirtualMachine"), "16"));
    }

    #[test]
    fn text_with_references_and_cdata_is_one_text() {
        let document = parse("<a>x &lt;&#65;&#x42;<![CDATA[<&>]]> y</a>").unwrap();
        assert_eq!(document.root().text(), "x <AB<&> y");
    }

    #[test]
    fn forbidden_characters_are_replaced_raw_and_as_references() {
        let document = parse("<a b=\"&#x1;\u{2}\">\u{1}&#x1;&#0;&#xFFFFFFFF;</a>").unwrap();
        assert_eq!(document.root().text(), "\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(document.root().attribute("b"), Some("\u{fffd}\u{fffd}"));
        let broken = Document::parse(b"<a>\xff\xfeb</a>").unwrap();
        assert_eq!(broken.root().text(), "\u{fffd}\u{fffd}b");
    }

    #[test]
    fn hostile_documents_are_refused() {
        assert!(matches!(parse("<a><b></a>"), Err(XmlError::Malformed(_))));
        assert!(matches!(parse("<a><b>"), Err(XmlError::Truncated)));
        assert!(matches!(parse("<a><b"), Err(XmlError::Truncated)));
        assert!(matches!(parse(""), Err(XmlError::Empty)));
        assert!(matches!(parse("not xml"), Err(XmlError::Empty)));
        assert!(matches!(parse("<a/><b/>"), Err(XmlError::TrailingContent)));
        assert!(matches!(parse("<a/>x"), Err(XmlError::TrailingContent)));
        assert!(matches!(parse("<a>&secret;</a>"), Err(XmlError::UnknownEntity(_))));
        let bomb = r#"<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>"#;
        assert!(matches!(parse(bomb), Err(XmlError::DocumentType)));
        let latin = r#"<?xml version="1.0" encoding="ISO-8859-1"?><a/>"#;
        assert!(matches!(parse(latin), Err(XmlError::Encoding(name)) if name == "ISO-8859-1"));
        assert!(matches!(Document::parse(b"\xff\xfe<\0a\0/\0>\0"), Err(XmlError::Encoding(_))));
        assert!(matches!(parse(&"<a>".repeat(MAX_DEPTH + 1)), Err(XmlError::TooDeep)));
    }

    #[test]
    fn deep_documents_do_not_use_the_stack() {
        let depth = MAX_DEPTH - 1;
        let document = parse(&format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth))).unwrap();
        let mut element = document.root();
        let mut seen = 1;
        while let Some(child) = element.child("a") {
            element = child;
            seen += 1;
        }
        assert_eq!(seen, depth);
    }

    #[test]
    fn written_xml_is_parsed_back() {
        let mut writer = Writer::new();
        writer.start("a", &[("k", "\"<&>'")]).leaf("b", &[], "1 < 2 & \r\n\u{1}").leaf(
            "c",
            &[],
            "",
        );
        let document = parse(&writer.finish()).unwrap();
        assert_eq!(document.root().attribute("k"), Some("\"<&>'"));
        assert_eq!(document.root().child_text("b"), Some("1 < 2 & \r\n\u{fffd}"));
        assert_eq!(document.root().child_text("c"), Some(""));
    }
}
