//! Parses the paths that a source file names: `crate::…`, `super::…` and, in the binary,
//! `otter::…`. A group in a `use` gives one path for each member. Comments and string literals are
//! skipped.

/// A path from the root of the crate, and its line.
#[derive(Debug, PartialEq, Eq)]
pub struct RootedPath {
    pub path: Vec<String>,
    pub line: usize,
    /// The module that contains the path: the module of the file, or an inline module in the file.
    pub scope: Vec<String>,
}

/// The paths from the root of the crate in the file with the module path `module`.
pub fn rooted_paths(module: &[&str], text: &str) -> Vec<RootedPath> {
    mentions(module, text)
        .into_iter()
        .filter(|mention| mention.is_rooted)
        .map(|Mention { path, line, scope, .. }| RootedPath { path, line, scope })
        .collect()
}

/// A path or a single name in a source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// The module that contains the mention: the module of the file, or an inline module in the
    /// file.
    pub scope: Vec<String>,
    /// The path, from the root of the crate if `is_rooted`, otherwise from a name in `scope`.
    pub path: Vec<String>,
    pub is_rooted: bool,
    pub line: usize,
    pub import: Option<Import>,
}

/// The import of a path by a `use`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The name in the importing module.
    pub name: String,
    /// Whether other modules may import the name from the importing module: `pub use`, `pub(super)
    /// use`.
    pub is_reexport: bool,
}

/// All paths and names in the file with the module path `module`.
pub fn mentions(module: &[&str], text: &str) -> Vec<Mention> {
    let module: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
    // `scopes` has the module of each open brace, because `super` depends on inline modules.
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
            // `use<…>` lists the lifetimes that a type captures; it imports nothing.
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
    /// If the reader is within a `use`: whether the `use` is a re-export.
    import: Option<bool>,
    found: Vec<Mention>,
}

impl TokenReader {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(|(token, _)| token.as_str())
    }

    /// The token before the one that was read last.
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

    /// Reads the rest of a path after a `::`. A group gives one path for each of its members.
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

/// The tokens of a source text, each with its line: words, `::` and other single characters.
/// Comments and literals are skipped.
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
            // A character literal ends with a second quote; a lifetime does not.
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

/// The number of `#` of the raw string literal that begins here; `None` if none begins here.
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
    fn paths_are_found_in_imports_types_and_expressions() {
        let text =
            "use crate::a::b; fn f(x: &crate::c::D<'_>) -> Result<crate::e::F, ()> { crate::g!() }";
        assert_eq!(paths(&["x"], text), ["a::b", "c::D", "e::F", "g"]);
    }

    #[test]
    fn a_group_gives_one_path_for_each_member() {
        let text = "use crate::{a::{self, b as c, d::*}, e, f::{g}}; use crate::h;";
        assert_eq!(paths(&["x"], text), ["a", "a::b", "a::d::*", "e", "f::g", "h"]);
    }

    #[test]
    fn super_is_relative_to_the_enclosing_module() {
        let text = "use super::a;
            mod tests { use super::*; use super::super::b; fn f() { super::super::super::c() } }
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
