//! Text of others, made safe to show to people.

/// Whether a character shows as what it is. Control characters command terminals and break lines;
/// marks, embeddings, overrides and isolates of bidirectional text, and the ends of lines and
/// paragraphs of Unicode, change the order and the place of what is shown around them.
pub fn is_harmless(character: char) -> bool {
    let is_mark = matches!(
        character,
        '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    );
    !is_mark && !character.is_control()
}
