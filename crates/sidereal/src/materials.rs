//! What a generator is made for, read from a run: catalog, item vectors, codebooks, device.

use candle_core::Device;
use sidereal_core::{Catalog, Embeddings};
use sidereal_generator::Materials;
use sidereal_generator::models::Needs;
use sidereal_nn::kernels::Precision;
use sidereal_tokenizer::ItemTokenizer;

use crate::Result;
use crate::recommend::Engine;
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
    pub(crate) fn load(run: &Run, needs: Needs, engine: Engine) -> Result<Self> {
        let catalog = run.catalog()?;
        let vectors =
            if needs.vectors && run.has(Stage::Embeddings) { Some(run.catalog_embeddings(&catalog)?) } else { None };
        let codebooks = if needs.codebooks && run.has(Stage::Tokenizer) { codebooks(&run.tokenizer()?)? } else { None };
        Ok(Self { catalog, vectors, codebooks, device: engine.device.open()?, precision: engine.precision })
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

/// Codebooks of a tokenizer that has any, a level each, `[K, d]`.
fn codebooks(tokenizer: &ItemTokenizer) -> Result<Option<Vec<Embeddings>>> {
    let Ok(quantizer) = tokenizer.quantizer() else { return Ok(None) };
    let codes = quantizer.codes_per_level();
    let book = |(level, &codes): (usize, &u32)| {
        let values = quantizer.codebook(level);
        let width = values.len() / codes.max(1) as usize;
        Embeddings::new(codes as usize, width, values.to_vec())
    };
    Ok(Some(codes.iter().enumerate().map(book).collect::<Result<_, _>>()?))
}
