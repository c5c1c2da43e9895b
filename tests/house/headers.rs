//! Every file begins with a header that states its job.

#[test]
fn every_file_begins_with_a_header() {
    let without: Vec<_> = super::sources()
        .into_iter()
        .filter(|(_, text)| !text.trim().is_empty() && !text.starts_with("//! "))
        .map(|(path, _)| path)
        .collect();
    assert!(without.is_empty(), "these files do not begin with a //! header: {without:?}");
}
