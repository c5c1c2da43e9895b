//! The paths of the crate that a source file names: `crate::…`, `super::…` and, in the binary,
//! `otter::…`, with the groups of `use` taken apart. Comments, texts and macros' names are passed
//! over.

/// One path from the root of the crate on, and the line that it is in.
#[derive(Debug, PartialEq, Eq)]
pub struct RootedPath {
    pub path: Vec<String>,
    pub line: usize,
    /// The module that it stands in: the file's or an inline one below it.
    pub scope: Vec<String>,
}

/// What the file at the module path `module` names.
pub fn rooted_paths(module: &[&str], text: &str) -> Vec<RootedPath> {
    mentions(module, text)
        .into_iter()
        .filter(|mention| mention.is_rooted)
        .map(|Mention { path, line, scope, .. }| RootedPath { path, line, scope })
        .collect()
}

/// A path or a single word of a source file, also one that begins at a name of its own module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// The module that it stands in: the file's or an inline one below it.
    pub scope: Vec<String>,
    /// From the root of the crate if `is_rooted`, otherwise from a name that `scope` knows.
    pub path: Vec<String>,
    pub is_rooted: bool,
    pub line: usize,
    pub import: Option<Import>,
}

/// What a `use` makes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// What the module calls it.
    pub name: String,
    /// Others may import it from here: `pub use`, `pub(super) use`.
    pub is_reexport: bool,
}

/// All that the file at the module path `module` mentions.
pub fn mentions(module: &[&str], text: &str) -> Vec<Mention> {
    let module: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
    // The module that each open brace is in: inline modules make `super` mean something else.
    let mut reader = TokenReader {
        tokens: tokens(text),
        at: 0,
        scopes: vec![module],
        import: None,
        found: Vec::new(),
    };
    while let Some(token) = reader.next() {
        let scope = reader.scopes.last().unwrap().clone();
        match token.as_str() {
            "mod" => {
                if let Some(name) = reader.next()
                    && reader.peek() == Some("{")
                {
                    reader.next();
                    reader.scopes.push([scope, vec![name]].concat());
                }
            }
            // `use<…>` says which lifetimes a type captures.
            "use" if reader.peek() != Some("<") => {
                reader.import = Some(matches!(reader.before(), Some("pub" | ")")));
            }
            ";" => reader.import = None,
            "{" => reader.scopes.push(scope),
            "}" if reader.scopes.len() > 1 => drop(reader.scopes.pop()),
            "crate" | "otter" if reader.takes("::") => reader.path(true, Vec::new()),
            "self" if reader.takes("::") => reader.path(false, Vec::new()),
            "super" if reader.peek() == Some("::") => {
                reader.at -= 1;
                let mut from = scope;
                while reader.peek() == Some("super") {
                    reader.next();
                    from.pop();
                    if !reader.takes("::") {
                        break;
                    }
                }
                reader.path(true, from);
            }
            word if word.starts_with(is_word)
                && !matches!(reader.before(), Some("::" | "."))
                && (reader.import.is_none() || reader.peek() == Some("::")) =>
            {
                reader.at -= 1;
                reader.path(false, Vec::new());
            }
            _ => {}
        }
    }
    reader.found
}

struct TokenReader {
    tokens: Vec<(String, usize)>,
    at: usize,
    scopes: Vec<Vec<String>>,
    /// Within a `use`: whether it exports again what it imports.
    import: Option<bool>,
    found: Vec<Mention>,
}

impl TokenReader {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(|(token, _)| token.as_str())
    }

    /// The token in front of the one that was read last.
    fn before(&self) -> Option<&str> {
        self.tokens.get(self.at.checked_sub(2)?).map(|(token, _)| token.as_str())
    }

    fn next(&mut self) -> Option<String> {
        let token = self.peek().map(str::to_owned);
        self.at += 1;
        token
    }

    fn takes(&mut self, expected: &str) -> bool {
        let there = self.peek() == Some(expected);
        self.at += usize::from(there);
        there
    }

    /// Reads on from behind a `::`; a group gives one path for each of its members.
    fn path(&mut self, is_rooted: bool, mut path: Vec<String>) {
        loop {
            if self.import.is_some() && self.takes("{") {
                while !self.takes("}") && self.peek().is_some() {
                    if !self.takes(",") {
                        self.path(is_rooted, path.clone());
                    }
                }
                return;
            }
            let line = self.tokens.get(self.at).map_or(0, |(_, line)| *line);
            let Some(part) = self.next() else { return };
            if part != "self" {
                path.push(part);
            }
            if !self.takes("::") {
                let import = self.import.map(|is_reexport| {
                    let name = if self.takes("as") { self.next() } else { path.last().cloned() };
                    Import { name: name.unwrap_or_default(), is_reexport }
                });
                let scope = self.scopes.last().unwrap().clone();
                self.found.push(Mention { scope, path, is_rooted, line, import });
                return;
            }
        }
    }
}

/// Words, `::` and single other characters, each with its line; no comments, no texts.
fn tokens(text: &str) -> Vec<(String, usize)> {
    let characters: Vec<char> = text.chars().collect();
    let starts = |at: usize, text: &str| {
        text.chars()
            .enumerate()
            .all(|(offset, character)| characters.get(at + offset) == Some(&character))
    };
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&character) = characters.get(at) {
        let begin = at;
        if starts(at, "//") {
            while characters.get(at).is_some_and(|character| *character != '\n') {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                if starts(at, "/*") {
                    depth += 1;
                    at += 2;
                } else if starts(at, "*/") {
                    depth -= 1;
                    at += 2;
                } else {
                    at += 1;
                }
                if depth == 0 || at >= characters.len() {
                    break;
                }
            }
        } else if let Some(hashes) = raw_string_hashes(&characters[at..]) {
            let end = format!("\"{}", "#".repeat(hashes));
            at += hashes + 2;
            while at < characters.len() && !starts(at, &end) {
                at += 1;
            }
            at += end.len();
        } else if character == '"' {
            at += 1;
            while characters.get(at).is_some_and(|character| *character != '"') {
                at += if characters[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if character == '\'' {
            // A lifetime is a quote and a word; a character ends in another quote.
            at += 1;
            if characters.get(at) == Some(&'\\') {
                at += 2;
                while characters.get(at).is_some_and(|character| *character != '\'') {
                    at += 1;
                }
                at += 1;
            } else if characters.get(at + 1) == Some(&'\'') {
                at += 2;
            }
        } else if is_word(character) {
            while characters.get(at).is_some_and(|character| is_word(*character)) {
                at += 1;
            }
            tokens.push((characters[begin..at].iter().collect(), line));
        } else if starts(at, "::") {
            tokens.push(("::".to_owned(), line));
            at += 2;
        } else {
            if !character.is_whitespace() {
                tokens.push((character.to_string(), line));
            }
            at += 1;
        }
        at = at.min(characters.len());
        line += characters[begin..at].iter().filter(|character| **character == '\n').count();
    }
    tokens
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// How many `#` a raw text that begins here has.
fn raw_string_hashes(characters: &[char]) -> Option<usize> {
    let behind = characters.strip_prefix(&['r'])?;
    let hashes = behind.iter().take_while(|character| **character == '#').count();
    (behind.get(hashes) == Some(&'"')).then_some(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(module: &[&str], text: &str) -> Vec<String> {
        rooted_paths(module, text).into_iter().map(|named| named.path.join("::")).collect()
    }

    #[test]
    fn paths_are_found_wherever_they_are() {
        let text =
            "use crate::a::b; fn f(x: &crate::c::D<'_>) -> Result<crate::e::F, ()> { crate::g!() }";
        assert_eq!(paths(&["x"], text), ["a::b", "c::D", "e::F", "g"]);
    }

    #[test]
    fn groups_are_taken_apart() {
        let text = "use crate::{a::{self, b as c, d::*}, e, f::{g}}; use crate::h;";
        assert_eq!(paths(&["x"], text), ["a", "a::b", "a::d::*", "e", "f::g", "h"]);
    }

    #[test]
    fn super_climbs_from_where_it_stands() {
        let text = "use super::a; mod tests { use super::*; use super::super::b; fn f() { super::super::super::c() } }
                    use super::super::d;";
        assert_eq!(paths(&["x", "y"], text), ["x::a", "x::y::*", "x::b", "c", "d"]);
    }

    #[test]
    fn comments_and_string_literals_contain_no_paths() {
        let text = r##"// crate::a
            /* crate::b /* crate::c */ crate::d */
            const E: &str = "crate::e \" crate::f"; const G: &str = r#"crate::g " crate::h"#;
            const I: char = '"'; const J: char = '\''; fn k<'l>(m: &'l str) { crate::n() }"##;
        assert_eq!(paths(&["x"], text), ["n"]);
        assert_eq!(paths(&["x"], "pub(crate) fn f() {}\nextern crate a;"), Vec::<String>::new());
    }

    #[test]
    fn lines_are_counted() {
        let found = rooted_paths(&["x"], "//! a\n\nconst B: &str = \"\n\";\nuse crate::c;\n");
        assert_eq!(
            found,
            [RootedPath { path: vec!["c".to_owned()], line: 5, scope: vec!["x".to_owned()] }]
        );
    }
}
