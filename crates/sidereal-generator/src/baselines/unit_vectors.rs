//! Item vectors of length one, and their products with queries.

use sidereal_core::{Embeddings, ItemIndex};

/// Item vectors divided by their length.
///
/// # Shapes
/// `values`: `[N, D]`
#[derive(Debug)]
pub(crate) struct UnitVectors {
    width: usize,
    values: Vec<f32>,
}

/// Items whose products are worked out at once.
const TILE: usize = 512;

impl UnitVectors {
    /// Divides each vector by its length (plus 1e-9: a vector of zeros stays one).
    pub(crate) fn new(embeddings: &Embeddings) -> Self {
        let mut values = embeddings.values().to_vec();
        for row in values.chunks_exact_mut(embeddings.width()) {
            let length = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32 + 1e-9;
            row.iter_mut().for_each(|v| *v /= length);
        }
        Self { width: embeddings.width(), values }
    }

    /// D.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// `query += weight * vector of item`, `[D]`.
    pub(crate) fn add_to(&self, query: &mut [f64], item: ItemIndex, weight: f64) {
        query.iter_mut().zip(self.of(item)).for_each(|(q, &v)| *q += weight * f64::from(v));
    }

    /// Products of queries with all items, tile by tile: `visit(first item, products)`, products `[B, items of the tile]`.
    ///
    /// # Shapes
    /// `queries`: `[B, D]`
    pub(crate) fn products(&self, queries: &[f64], mut visit: impl FnMut(usize, &[f64])) {
        let users = queries.len() / self.width;
        let mut items = vec![0.0; TILE * self.width];
        let mut products = vec![0.0; users * TILE];
        for (tile, values) in self.values.chunks(TILE * self.width).enumerate() {
            let count = values.len() / self.width;
            items.iter_mut().zip(values).for_each(|(wide, &v)| *wide = f64::from(v)); // [count, D]
            let products = &mut products[..users * count];
            product(queries, &items[..values.len()], self.width, products, 1.0); // [B, count]
            visit(tile * TILE, products);
        }
    }

    /// The item's vector, `[D]`.
    pub(crate) fn of(&self, item: ItemIndex) -> &[f32] {
        &self.values[item as usize * self.width..][..self.width]
    }

    /// As [`UnitVectors::products`] in f32, for those who do not count ties.
    ///
    /// # Shapes
    /// `queries`: `[B, D]`
    pub(crate) fn products_f32(&self, queries: &[f32], mut visit: impl FnMut(usize, &[f32])) {
        let users = queries.len() / self.width;
        let mut products = vec![0.0; users * TILE];
        for (tile, values) in self.values.chunks(TILE * self.width).enumerate() {
            let products = &mut products[..users * (values.len() / self.width)];
            product(queries, values, self.width, products, 1.0); // [B, count]
            visit(tile * TILE, products);
        }
    }
}

/// `out = a b^T` on the calling thread: the users above are already spread over threads.
///
/// # Shapes
/// `a`: `[M, D]`, `b`: `[N, D]`, `out`: `[M, N]`
fn product<T: Copy + Default + 'static>(a: &[T], b: &[T], width: usize, out: &mut [T], one: T) {
    let (m, n) = (a.len() / width, b.len() / width);
    assert_eq!((a.len(), b.len(), out.len()), (m * width, n * width, m * n), "sizes of a product");
    // SAFETY: the assertion above says that with these strides every element lies inside its slice, and `out` is a
    // unique borrow, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            width,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            width as isize,
            b.as_ptr(),
            width as isize,
            1,
            T::default(),
            one,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
