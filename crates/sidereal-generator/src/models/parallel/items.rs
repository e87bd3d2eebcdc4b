//! What a parallel decoder knows of the items: their codes, and their vectors where it looks at them.

use sidereal_core::{Catalog, ItemIndex};
use sidereal_nn::ops::ItemCodes;

use crate::Result;
use crate::models::unit_length::unit_values;
use crate::network::Materials;

/// The items of a catalog.
#[derive(Debug, Clone)]
pub(in crate::models) struct Items {
    /// An item's codes as places among those of all levels: `[N, L]`.
    places: Vec<u32>,
    /// A level's first place: `[L]`.
    firsts: Vec<u32>,
    /// The same by level.
    pub(in crate::models) by_level: ItemCodes,
    /// A vector of length 1 an item (or of zeros), and how wide it is: `[N, Dv]`.
    vectors: Option<(Vec<f32>, usize)>,
}

impl Items {
    /// Of a run's materials, with the items' vectors where a key asks for them.
    ///
    /// # Errors
    /// Vectors that are asked for and are not there.
    pub(in crate::models) fn new(materials: &Materials<'_>, vectors_for: Option<&str>) -> Result<Self> {
        let catalog = materials.catalog;
        let firsts = firsts(catalog);
        let mut places = Vec::with_capacity(catalog.len() * firsts.len());
        for item in 0..catalog.len() as ItemIndex {
            places.extend(catalog.semantic_id(item).iter().zip(&firsts).map(|(&code, first)| first + u32::from(code)));
        }
        let by_level = ItemCodes::new(&places, firsts.len())?;
        let vectors = match vectors_for {
            None => None,
            Some(key) => {
                let vectors = materials.need_vectors(key)?;
                let mut values = vectors.values().to_vec();
                unit_values(&mut values, vectors.width());
                Some((values, vectors.width()))
            }
        };
        Ok(Self { places, firsts, by_level, vectors })
    }

    /// N.
    pub(in crate::models) fn len(&self) -> usize {
        self.by_level.len()
    }

    /// L.
    pub(in crate::models) fn levels(&self) -> usize {
        self.firsts.len()
    }

    /// Where a level's codes begin among those of all levels: `[L]`.
    pub(in crate::models) fn firsts(&self) -> &[u32] {
        &self.firsts
    }

    /// An item's codes as places among those of all levels: `[L]`.
    pub(in crate::models) fn places(&self, item: ItemIndex) -> &[u32] {
        &self.places[item as usize * self.levels()..][..self.levels()]
    }

    /// An item's codes: `[L]`.
    pub(in crate::models) fn codes(&self, item: ItemIndex) -> impl Iterator<Item = u32> {
        self.places(item).iter().zip(&self.firsts).map(|(place, first)| place - first)
    }

    /// Width of the vectors; 0 without.
    pub(in crate::models) fn vector_width(&self) -> usize {
        self.vectors.as_ref().map_or(0, |(_, width)| *width)
    }

    /// An item's vector; empty without.
    pub(in crate::models) fn vector(&self, item: ItemIndex) -> &[f32] {
        self.vectors.as_ref().map_or(&[], |(values, width)| &values[item as usize * width..][..*width])
    }
}

fn firsts(catalog: &Catalog) -> Vec<u32> {
    let mut end = 0;
    let codes = catalog.codes_per_level().iter();
    codes
        .map(|&codes| {
            end += codes;
            end - codes
        })
        .collect()
}
