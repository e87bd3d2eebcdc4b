//! STATIC's arrays for constrained decoding on accelerators: the trie as one CSR matrix behind a dense table of the first
//! levels (methods of youtube/static-constraint-decoding, arXiv 2602.22647).
//!
//! State 0 is the end; the node of the first code t is state t + 1; deeper nodes are numbered depth by depth from V + 1
//! in sorted order; leaves have no state. `packed_csr.npy` holds [code, next state] an edge and V rows of padding,
//! `indptr.npy` a state's first row, `start_mask.npy`, `dense_mask.npy` and `dense_states.npy` the first levels.
//! `static.json` has V, the dense levels and the most edges of a node at each level; `item_ids.json` the item of each
//! semantic ID in sorted order, which the arrays have no place for.

use std::path::Path;

use serde_json::json;
use sidereal_core::artifact::write_json;
use sidereal_core::{Catalog, Error};

use super::{npy, refuse_shared_leaves};
use crate::Result;

/// Most entries of the dense table.
const MAX_DENSE: usize = 1 << 26;

/// The arrays.
struct Arrays {
    codes: usize,
    dense_levels: usize,
    edges: Vec<[i32; 2]>,
    indptr: Vec<i32>,
    start_mask: Vec<u8>,
    dense_mask: Vec<u8>,
    dense_states: Vec<i32>,
    most_edges: Vec<usize>,
}

pub(super) fn write(catalog: &Catalog, dir: &Path) -> Result<()> {
    refuse_shared_leaves(catalog, "STATIC's arrays")?;
    let arrays = arrays(catalog)?;
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let little = |values: &[i32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let dense = vec![arrays.codes; arrays.dense_levels];
    npy::write(&dir.join("packed_csr.npy"), "<i4", &[arrays.edges.len(), 2], &little(arrays.edges.as_flattened()))?;
    npy::write(&dir.join("indptr.npy"), "<i4", &[arrays.indptr.len()], &little(&arrays.indptr))?;
    npy::write(&dir.join("start_mask.npy"), "|b1", &[arrays.codes], &arrays.start_mask)?;
    npy::write(&dir.join("dense_mask.npy"), "|b1", &dense, &arrays.dense_mask)?;
    npy::write(&dir.join("dense_states.npy"), "<i4", &dense, &little(&arrays.dense_states))?;
    let items: Vec<&str> = (0..catalog.trie().leaves())
        .filter_map(|leaf| catalog.postings(leaf).first())
        .map(|&i| catalog.item_id(i))
        .collect();
    write_json(&dir.join("item_ids.json"), &items)?;
    let facts = json!({
        "vocab_size": arrays.codes,
        "dense_levels": arrays.dense_levels,
        "levels": catalog.levels(),
        "layer_max_branches": arrays.most_edges,
        "catalog_version": catalog.version(),
    });
    Ok(write_json(&dir.join("static.json"), &facts)?)
}

fn arrays(catalog: &Catalog) -> Result<Arrays> {
    let (trie, levels) = (catalog.trie(), catalog.levels());
    let codes = catalog.codes_per_level().iter().copied().max().unwrap_or(1) as usize;
    if levels < 2 {
        let mend = "train two levels or more, or use the suffix policy";
        return Err(Error::input("catalog", "one level, but STATIC's arrays need two", mend).into());
    }
    // Two dense levels where they leave a sparse one and fit.
    let dense_levels = if levels > 2 && codes * codes <= MAX_DENSE { 2 } else { 1 };
    // State of node `n` at depth 1 to L - 1.
    let firsts: Vec<u16> = trie.children(0, 0).1.iter().collect();
    let mut starts = vec![0usize; levels];
    let mut states = codes + 1;
    for (depth, start) in starts.iter_mut().enumerate().skip(2) {
        *start = states;
        states += trie.nodes(depth);
    }
    let rows = (1..levels).map(|depth| trie.nodes(depth + 1)).sum::<usize>() + codes;
    if i32::try_from(rows.max(states)).is_err() {
        let mend = "split the catalog";
        return Err(Error::input("catalog", format!("{rows} edges do not fit 32-bit numbers"), mend).into());
    }
    let state = |depth: usize, node: u32| match depth {
        1 => usize::from(firsts[node as usize]) + 1,
        _ if depth == levels => 0,
        _ => starts[depth] + node as usize,
    };
    let mut edges = Vec::with_capacity(rows);
    let mut indptr = vec![0i32; states + 1];
    let mut most_edges = vec![firsts.len()];
    for depth in 1..levels {
        let mut most = 0;
        for node in 0..trie.nodes(depth) as u32 {
            let (children, codes) = trie.children(depth, node);
            edges.extend(children.zip(codes).map(|(child, code)| [i32::from(code), state(depth + 1, child) as i32]));
            // The end of this state's rows; states without a node repeat it below.
            indptr[state(depth, node) + 1] = edges.len() as i32;
            most = most.max(codes.len());
        }
        most_edges.push(most);
    }
    let mut end = 0;
    for last in &mut indptr {
        end = end.max(*last);
        *last = end;
    }
    // Padding, so that a read of fixed length stays inside.
    edges.extend(std::iter::repeat_n([codes as i32, 0], codes));
    indptr.push(edges.len() as i32);
    let mut start_mask = vec![0; codes];
    firsts.iter().for_each(|&code| start_mask[usize::from(code)] = 1);
    let mut dense_mask = vec![0; codes.pow(dense_levels as u32)];
    let mut dense_states = vec![0; dense_mask.len()];
    for (first, &code) in (0u32..).zip(&firsts) {
        if dense_levels == 1 {
            dense_mask[usize::from(code)] = 1;
            dense_states[usize::from(code)] = state(1, first) as i32;
            continue;
        }
        let (children, seconds) = trie.children(1, first);
        for (child, second) in children.zip(seconds) {
            let at = usize::from(code) * codes + usize::from(second);
            dense_mask[at] = 1;
            dense_states[at] = state(2, child) as i32;
        }
    }
    Ok(Arrays { codes, dense_levels, edges, indptr, start_mask, dense_mask, dense_states, most_edges })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::{CollisionPolicy, ItemId, SemanticIds};

    fn catalog(levels: usize, codes: &[u16]) -> Catalog {
        let sids = SemanticIds::new(levels, codes.to_vec()).unwrap();
        let ids: Vec<ItemId> = (0..sids.len()).map(|i| ItemId::from(i.to_string())).collect();
        Catalog::build(&ids, &sids, &vec![4; levels], CollisionPolicy::Postings, None).unwrap()
    }

    /// Follows the arrays as a decoder does.
    fn enumerate(arrays: &Arrays, levels: usize) -> Vec<Vec<u16>> {
        let mut found = Vec::new();
        let mut stack: Vec<(usize, Vec<u16>)> = (0..arrays.codes)
            .rev()
            .filter(|&code| arrays.start_mask[code] == 1)
            .map(|code| (code + 1, vec![code as u16]))
            .collect();
        while let Some((state, path)) = stack.pop() {
            let rows = arrays.indptr[state] as usize..arrays.indptr[state + 1] as usize;
            for &[code, next] in arrays.edges[rows].iter().rev() {
                let path = [&path[..], &[code as u16]].concat();
                assert_eq!(next == 0, path.len() == levels);
                match next {
                    0 => found.push(path),
                    next => stack.push((next as usize, path)),
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn the_arrays_lead_to_every_semantic_id_and_to_no_other() {
        let codes = [[0, 1, 3], [0, 1, 0], [0, 3, 3], [2, 0, 0], [3, 3, 3]];
        let catalog = catalog(3, codes.as_flattened());
        let arrays = arrays(&catalog).unwrap();
        let mut sorted: Vec<Vec<u16>> = codes.iter().map(|row| row.to_vec()).collect();
        sorted.sort();
        assert_eq!(enumerate(&arrays, 3), sorted);
        // Worked out by hand: V = 4; states 1, 3, 4 for the first codes, 5 to 8 for the prefixes of two.
        assert_eq!(arrays.indptr, [0, 0, 2, 2, 3, 4, 6, 7, 8, 9, 13]);
        assert_eq!(arrays.edges[..4], [[1, 5], [3, 6], [0, 7], [3, 8]]);
        assert_eq!(arrays.edges[9..], [[4, 0]; 4]);
        assert_eq!(arrays.start_mask, [1, 0, 1, 1]);
        assert_eq!((arrays.dense_states[1], arrays.dense_states[3], arrays.dense_states[15]), (5, 6, 8));
        assert_eq!(arrays.dense_mask.iter().map(|&m| usize::from(m)).sum::<usize>(), 4);
        assert_eq!(arrays.most_edges, [3, 2, 2]);
    }

    #[test]
    fn two_levels_have_one_dense_and_shared_ids_are_refused() {
        let two = catalog(2, &[1, 0, 3, 2]);
        let arrays = arrays(&two).unwrap();
        assert_eq!((arrays.dense_levels, enumerate(&arrays, 2)), (1, vec![vec![1, 0], vec![3, 2]]));
        assert_eq!(arrays.dense_states, [0, 2, 0, 4]);
        let dir = tempfile::tempdir().unwrap();
        let error = write(&catalog(2, &[1, 0, 1, 0]), dir.path()).unwrap_err().to_string();
        assert!(error.contains("\"0\" and \"1\"") && error.contains("suffix"), "{error}");
        write(&two, dir.path()).unwrap();
        let npy = std::fs::read(dir.path().join("indptr.npy")).unwrap();
        let header = b"\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, 'shape': (7,), }";
        assert!(npy.starts_with(header) && npy.len() == 128 + 7 * 4);
    }
}
