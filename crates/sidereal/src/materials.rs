//! What a generator is made for, read from a run: catalog, item vectors, codebooks, device.

use candle_core::Device;
use sidereal_core::{Catalog, Embeddings};
use sidereal_generator::Materials;
use sidereal_generator::models::Needs;
use sidereal_nn::kernels::Precision;
use sidereal_tokenizer::{ItemTokenizer, LevelsSee};

use crate::Result;
use crate::recommend::Compute;
use crate::run::{Run, Stage};

/// The owner of a generator's [`Materials`].
#[derive(Debug)]
pub(crate) struct RunMaterials {
    catalog: Catalog,
    vectors: Option<Embeddings>,
    codebooks: Option<Vec<Embeddings>>,
    device: Device,
    precision: Precision,
}

impl RunMaterials {
    /// Reads what the generator needs. What it needs and the run does not have stays out: the generator's own error
    /// names the key that asks for it.
    ///
    /// # Errors
    /// A run without catalog; files that are damaged; a device that is not there.
    pub(crate) fn load(run: &Run, needs: Needs, compute: Compute) -> Result<Self> {
        let catalog = run.catalog()?;
        let vectors =
            if needs.vectors && run.has(Stage::Embeddings) { Some(run.catalog_embeddings(&catalog)?) } else { None };
        let codebooks = if needs.codebooks && run.has(Stage::Tokenizer) { codebooks(&run.tokenizer()?)? } else { None };
        Ok(Self { catalog, vectors, codebooks, device: compute.device.open()?, precision: compute.precision })
    }

    /// As the generator takes them.
    pub(crate) fn as_materials(&self) -> Materials<'_> {
        Materials {
            catalog: &self.catalog,
            vectors: self.vectors.as_ref(),
            codebooks: self.codebooks.as_deref(),
            training_counts: None,
            device: &self.device,
            precision: self.precision,
        }
    }

    /// The catalog.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The catalog, when nothing else is needed any more.
    pub(crate) fn into_catalog(self) -> Catalog {
        self.catalog
    }
}

/// Codebooks of a tokenizer that has any, a level each, `[K, d]`: all of one width where their codewords add up to an
/// item's latent, so those of sub-vectors with zeros around them.
pub(crate) fn codebooks(tokenizer: &ItemTokenizer) -> Result<Option<Vec<Embeddings>>> {
    let Ok(quantizer) = tokenizer.quantizer() else { return Ok(None) };
    let codes = quantizer.codes_per_level();
    let width_of = |level: usize| quantizer.codebook(level).len() / codes[level].max(1) as usize;
    let sub_vectors = quantizer.levels_see() == LevelsSee::SubVectors;
    let whole: usize = (0..codes.len()).map(width_of).sum();
    let mut before = 0;
    let mut book = |(level, &codes): (usize, &u32)| {
        let (values, width) = (quantizer.codebook(level), width_of(level));
        if !sub_vectors {
            return Embeddings::new(codes as usize, width, values.to_vec());
        }
        let mut padded = vec![0.0; codes as usize * whole];
        for (row, codeword) in padded.chunks_exact_mut(whole.max(1)).zip(values.chunks_exact(width.max(1))) {
            row[before..before + width].copy_from_slice(codeword);
        }
        before += width;
        Embeddings::new(codes as usize, whole, padded)
    };
    Ok(Some(codes.iter().enumerate().map(&mut book).collect::<Result<_, _>>()?))
}
