//! A few users: what they did, what they took, what they are recommended.

use serde::Serialize;

use crate::report::numbers::{figure, plural};
use crate::report::{ItemView, UserStory};

/// Events of a history that are listed; the ones before are counted.
const LISTED: usize = 12;

#[derive(Debug, Serialize)]
pub(super) struct UsersView<'a> {
    list: Vec<UserView<'a>>,
}

#[derive(Debug, Serialize)]
struct UserView<'a> {
    user: &'a str,
    /// Number of the first listed event, from 1.
    first: usize,
    earlier: Option<String>,
    history: Vec<Named<'a>>,
    target: Option<Named<'a>>,
    found: String,
    recommendations: Vec<Recommended<'a>>,
}

/// An item by its title, with its id behind; by its id where it has no title.
#[derive(Debug, Serialize)]
struct Named<'a> {
    name: &'a str,
    id: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Recommended<'a> {
    rank: usize,
    item: Named<'a>,
    target: bool,
    semantic_id: String,
    score: String,
}

pub(super) fn view(users: &[UserStory]) -> Option<UsersView<'_>> {
    if users.is_empty() {
        return None;
    }
    Some(UsersView { list: users.iter().map(user).collect() })
}

fn user(story: &UserStory) -> UserView<'_> {
    let skipped = story.history.len().saturating_sub(LISTED);
    let found = match story.recommendations.iter().position(|scored| scored.is_target) {
        Some(at) => format!("Recommended at rank {}.", at + 1),
        None => format!("Not among the {} shown.", plural(story.recommendations.len() as u64, "recommendation")),
    };
    let recommendations = story.recommendations.iter().enumerate().map(|(at, scored)| Recommended {
        rank: at + 1,
        item: named(&scored.item),
        target: scored.is_target,
        semantic_id: scored.semantic_id.iter().map(u16::to_string).collect::<Vec<_>>().join(" \u{b7} "),
        score: figure(scored.score, 3),
    });
    UserView {
        user: &story.user,
        first: skipped + 1,
        earlier: (skipped > 0).then(|| format!("After {}:", plural(skipped as u64, "earlier event"))),
        history: story.history[skipped..].iter().map(named).collect(),
        target: story.target.as_ref().map(named),
        found,
        recommendations: recommendations.collect(),
    }
}

fn named(item: &ItemView) -> Named<'_> {
    match item.title.as_deref().filter(|title| !title.trim().is_empty()) {
        Some(title) => Named { name: title, id: Some(&item.item_id) },
        None => Named { name: &item.item_id, id: None },
    }
}
