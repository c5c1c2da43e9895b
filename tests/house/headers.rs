//! Every file says at its top what its one job is, and no line is longer than 100 columns.

#[test]
fn every_file_begins_with_a_header() {
    let without: Vec<_> = super::sources()
        .into_iter()
        .filter(|(_, text)| !text.trim().is_empty() && !text.starts_with("//! "))
        .map(|(path, _)| path)
        .collect();
    assert!(without.is_empty(), "these files do not begin with a //! header: {without:?}");
}

#[test]
fn no_line_is_longer_than_100_columns() {
    let mut long = Vec::new();
    for (path, text) in super::sources().into_iter().chain(super::page_sources()) {
        let lines = text.lines().enumerate().filter(|(_, line)| line.chars().count() > 100);
        long.extend(lines.map(|(at, _)| format!("{}:{}", path.display(), at + 1)));
    }
    assert!(long.is_empty(), "these lines of src are too long: {long:?}");
}
