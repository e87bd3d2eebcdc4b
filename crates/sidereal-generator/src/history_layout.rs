//! The tokens of a history: the one place that says what a model over codes reads.
//!
//! In its plain form a history is the codes of its items, oldest first. Two kinds of token may stand around them, which
//! the vocabulary numbers after the codes: one of the user before everything, one between items. A model that looks at
//! item vectors must know the items too: it gets *item marks*, one an item, before the tokens. A mark is no token (its
//! highest bit tells it from one), so that histories stay plain lists of numbers for those who only hand them on.
//!
//! # Shapes
//! `[marks..] [user] code .. code [separator] code .. code`

use sidereal_core::{Catalog, CodeVocab, ItemIndex};

/// What tells an item mark from a token.
const MARK: u32 = 1 << 31;
/// The slot of a padded history that has no item.
pub const NO_ITEM: u32 = u32::MAX;

/// Which tokens a history has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLayout {
    /// How codes are numbered.
    pub vocab: CodeVocab,
    /// Most recent items that are read.
    pub max_history: usize,
    /// User tokens, over which users are spread by their key; with any, there is one more for unknown users. 0: none.
    pub users: u32,
    /// Whether a token stands between items.
    pub separator: bool,
    /// Whether item marks stand before the tokens.
    pub item_marks: bool,
}

impl HistoryLayout {
    /// Codes alone.
    pub fn plain(vocab: &CodeVocab, max_history: usize) -> Self {
        Self { vocab: vocab.clone(), max_history, users: 0, separator: false, item_marks: false }
    }

    /// V: special tokens, codes, users, the unknown user, the separator.
    pub fn vocab_size(&self) -> usize {
        self.vocab.size() as usize + self.user_tokens() as usize + usize::from(self.separator)
    }

    /// The token of a user's key ([`crate::network::user_key`]), or of nobody known; `None` where there are no users.
    pub fn user_token(&self, user: Option<u64>) -> Option<u32> {
        let number = match user {
            _ if self.users == 0 => return None,
            Some(key) => (key % u64::from(self.users)) as u32,
            None => self.users,
        };
        Some(self.vocab.size() + number)
    }

    /// Item marks and tokens of the most recent items.
    ///
    /// # Panics
    /// If an item is not in the catalog.
    pub fn tokens(&self, catalog: &Catalog, items: &[ItemIndex], user: Option<u64>) -> Vec<u32> {
        let recent = &items[items.len().saturating_sub(self.max_history)..];
        let mut tokens = Vec::with_capacity(recent.len() * (self.vocab.levels() + 2) + 1);
        if self.item_marks {
            tokens.extend(recent.iter().map(|item| MARK | item));
        }
        tokens.extend(self.user_token(user));
        for (at, &item) in recent.iter().enumerate() {
            tokens.extend((self.separator && at > 0).then(|| self.vocab.size() + self.user_tokens()));
            push_item(catalog, &self.vocab, item, &mut tokens);
        }
        tokens
    }

    /// Which of the items the token at a position belongs to, the oldest being 0; `None` for users and separators.
    pub fn slot(&self, position: usize) -> Option<usize> {
        let levels = self.vocab.levels();
        let within = position.checked_sub(usize::from(self.users > 0))?;
        let stride = levels + usize::from(self.separator);
        (within % stride < levels).then_some(within / stride)
    }

    fn user_tokens(&self) -> u32 {
        if self.users == 0 { 0 } else { self.users + 1 }
    }
}

/// The token ids of an item's codes.
pub(crate) fn push_item(catalog: &Catalog, vocab: &CodeVocab, item: ItemIndex, tokens: &mut Vec<u32>) {
    tokens.extend(catalog.semantic_id(item).iter().enumerate().map(|(level, &code)| vocab.token(level, code)));
}

/// The items of a history's marks, and its tokens.
pub fn split_marks(history: &[u32]) -> (impl ExactSizeIterator<Item = ItemIndex> + '_, &[u32]) {
    let (marks, tokens) = history.split_at(history.partition_point(|symbol| symbol & MARK != 0));
    (marks.iter().map(|mark| mark & !MARK), tokens)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::{CollisionPolicy, ItemId, SemanticIds};

    fn catalog() -> (Catalog, CodeVocab) {
        let ids: Vec<ItemId> = (0..4).map(|i| ItemId::from(format!("i{i}"))).collect();
        let sids = SemanticIds::new(2, vec![0, 0, 0, 1, 1, 0, 1, 2]).unwrap();
        let catalog = Catalog::build(&ids, &sids, &[2, 3], CollisionPolicy::Postings, None).unwrap();
        (catalog, CodeVocab::new(CodeVocab::FIRST_CODE, &[2, 3]))
    }

    #[test]
    fn a_history_is_marks_user_and_codes_with_separators_between_items() {
        let (catalog, vocab) = catalog();
        // Codes are tokens 2..7, users 7..12 and 12, the separator is 13.
        let plain = HistoryLayout::plain(&vocab, 2);
        assert_eq!(plain.tokens(&catalog, &[0, 1, 3], Some(9)), [2, 5, 3, 6]);
        let full = HistoryLayout { users: 5, separator: true, item_marks: true, ..plain.clone() };
        assert_eq!((plain.vocab_size(), full.vocab_size()), (7, 14));
        let history = full.tokens(&catalog, &[0, 1, 3], Some(9));
        let (items, tokens) = split_marks(&history);
        assert_eq!(items.collect::<Vec<_>>(), [1, 3]);
        assert_eq!(tokens, [11, 2, 5, 13, 3, 6]);
        assert_eq!(full.tokens(&catalog, &[], None), [12], "nobody known, nothing seen");
        assert_eq!(plain.tokens(&catalog, &[], None), [0; 0]);
    }

    #[test]
    fn every_token_of_an_item_knows_its_item_and_no_other_token_has_one() {
        let (catalog, vocab) = catalog();
        for (users, separator) in [(0, false), (3, false), (0, true), (3, true)] {
            let layout = HistoryLayout { users, separator, ..HistoryLayout::plain(&vocab, 9) };
            let tokens = layout.tokens(&catalog, &[2, 0, 3], None);
            let mut of_slot = vec![Vec::new(); 3];
            for (position, &token) in tokens.iter().enumerate() {
                assert_eq!(layout.slot(position).is_some(), vocab.code(token).is_some());
                of_slot[layout.slot(position).unwrap_or(0)].extend(vocab.code(token).map(|(_, code)| code));
            }
            assert_eq!(of_slot, [[1, 0], [0, 0], [1, 2]]);
        }
    }
}
