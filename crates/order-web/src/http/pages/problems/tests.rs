use std::collections::BTreeSet;

use super::*;

#[test]
fn every_kind_has_a_page_of_its_own() {
    let addresses: BTreeSet<&str> = KINDS.iter().map(|kind| kind.address.as_str()).collect();
    assert_eq!(addresses.len(), KINDS.len());
    assert_eq!(KINDS.len(), Reason::ALL.len() + ALL_PROTOCOL.len());
}

#[test]
fn text_cannot_become_markup() {
    assert_eq!(escape("<a href=\"&\">"), "&lt;a href=&quot;&amp;&quot;&gt;");
    assert_eq!(
        mark_code("use `a<b`, then `c`"),
        "use <code>a&lt;b</code>, then <code>c</code>"
    );
}
