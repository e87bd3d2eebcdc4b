//! From token vectors to a text's vector: pooling, then the projections and the normalisation that `modules.json` lists.

use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;
use sidereal_core::Error;
use sidereal_nn::pretrained::{ModelFolder, SentenceModule, WeightFiles};
use sidereal_nn::{Result, ops};

use super::layers::{Activation, Linear, check_sizes};
use super::text::TokenBatch;

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    Mean,
    MeanSqrtLen,
    Max,
    Cls,
    LastToken,
}

/// Names of sentence-transformers: in a `pooling_mode` of newer folders, behind `pooling_mode_` in older ones.
const POOLINGS: &[(&str, &str, Pooling)] = &[
    ("mean", "mean_tokens", Pooling::Mean),
    ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("max", "max_tokens", Pooling::Max),
    ("cls", "cls_token", Pooling::Cls),
    ("lasttoken", "lasttoken", Pooling::LastToken),
];

impl Pooling {
    pub(crate) fn name(self) -> &'static str {
        POOLINGS.iter().find(|(_, _, pooling)| *pooling == self).map_or("mean", |(name, _, _)| name)
    }

    fn read(folder: &ModelFolder, name: &str) -> Result<Self> {
        let config: serde_json::Map<String, serde_json::Value> = folder.json(name)?;
        let is = |short: &str, long: &str| {
            let named = config.get("pooling_mode").and_then(serde_json::Value::as_str) == Some(short);
            named || config.get(&format!("pooling_mode_{long}")).and_then(serde_json::Value::as_bool) == Some(true)
        };
        let chosen: Vec<Self> =
            POOLINGS.iter().filter(|(short, long, _)| is(short, long)).map(|&(_, _, p)| p).collect();
        let others = config.iter().any(|(key, value)| {
            let known = POOLINGS.iter().any(|(_, long, _)| key.strip_prefix("pooling_mode_") == Some(long));
            key.starts_with("pooling_mode_") && value.as_bool() == Some(true) && !known
        });
        match chosen[..] {
            [pooling] if !others => Ok(pooling),
            _ => {
                let problem = "it does not name exactly one pooling that is supported";
                let known: Vec<&str> = POOLINGS.iter().map(|(name, _, _)| *name).collect();
                let mend = format!("use a model with one of: {}", known.join(", "));
                Err(Error::input(folder.path(name).display().to_string(), problem, mend).into())
            }
        }
    }

    /// [B, T, D] -> [B, D]
    fn apply(self, hidden: &Tensor, batch: &TokenBatch) -> Result<Tensor> {
        let (rows, tokens, width) = hidden.dims3()?;
        let device = hidden.device();
        let at = |position: &dyn Fn(usize) -> usize| -> Result<Tensor> {
            let flat: Vec<u32> =
                batch.lengths.iter().enumerate().map(|(row, &len)| (row * tokens + position(len)) as u32).collect();
            let flat = Tensor::from_vec(flat, rows, device)?;
            Ok(hidden.reshape((rows * tokens, width))?.index_select(&flat, 0)?) // [B, D]
        };
        match self {
            Self::Cls => at(&|_| 0),
            Self::LastToken => at(&|len| len.saturating_sub(1)),
            Self::Mean | Self::MeanSqrtLen => {
                let power = if self == Self::Mean { 1.0 } else { 0.5 };
                let shares: Vec<f32> = batch
                    .lengths
                    .iter()
                    .flat_map(|&len| {
                        let share = 1.0 / (len.max(1) as f32).powf(power);
                        (0..tokens).map(move |t| if t < len { share } else { 0.0 })
                    })
                    .collect();
                let shares = Tensor::from_vec(shares, (rows, 1, tokens), device)?;
                Ok(shares.matmul(&hidden.contiguous()?)?.squeeze(1)?) // [B, D]
            }
            Self::Max => match &batch.key_mask {
                Some(mask) => Ok(hidden.broadcast_add(&mask.reshape((rows, tokens, 1))?)?.max(1)?),
                None => Ok(hidden.max(1)?),
            },
        }
    }
}

/// What follows the transformer.
pub(crate) struct Head {
    pooling: Pooling,
    dense: Vec<(Linear, Activation)>,
    normalise: bool,
    width: usize,
}

#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    #[serde(default = "yes")]
    bias: bool,
    #[serde(default = "tanh")]
    activation_function: String,
}

fn yes() -> bool {
    true
}

fn tanh() -> String {
    "torch.nn.modules.activation.Tanh".to_owned()
}

impl Head {
    /// Reads `modules.json`; without one, `pooling` and `normalise` hold.
    pub(crate) fn load(
        folder: &ModelFolder,
        width: usize,
        pooling: Pooling,
        normalise: bool,
        device: &Device,
    ) -> Result<Self> {
        let Some(modules) = folder.modules()? else {
            return Ok(Self { pooling, dense: Vec::new(), normalise, width });
        };
        let mut head = Self { pooling, dense: Vec::new(), normalise: false, width };
        for module in &modules {
            head.add(folder, module, device)?;
        }
        Ok(head)
    }

    fn add(&mut self, folder: &ModelFolder, module: &SentenceModule, device: &Device) -> Result<()> {
        let config_name = format!("{}/config.json", module.path);
        let place = || folder.path("modules.json").display().to_string();
        if self.normalise {
            return Err(Error::input(
                place(),
                "a module follows the normalisation",
                "use a model whose last module is Normalize",
            )
            .into());
        }
        if module.is("Transformer") {
            return Ok(());
        }
        if module.is("Normalize") {
            self.normalise = true;
            return Ok(());
        }
        if module.is("Pooling") {
            self.pooling = Pooling::read(folder, &config_name)?;
            return Ok(());
        }
        if module.is("Dense") {
            let config: DenseConfig = folder.json(&config_name)?;
            let place = folder.path(&config_name).display().to_string();
            check_sizes(&place, &[("out_features", config.out_features, crate::formats::MAX_WIDTH)])?;
            if config.in_features != self.width {
                let problem = format!("it takes {} features, but is given {}", config.in_features, self.width);
                return Err(Error::input(place, problem, "download the model again: its modules do not fit").into());
            }
            let weights =
                WeightFiles::open(folder, &[format!("{}/model.safetensors", module.path)], DType::F32, device)?;
            let linear = Linear::load(&weights, "linear", [config.in_features, config.out_features], config.bias)?;
            self.dense.push((linear, Activation::parse(&place, &config.activation_function)?));
            self.width = config.out_features;
            return Ok(());
        }
        let problem = format!("the module {:?} is not supported", module.class);
        Err(Error::input(place(), problem, "use a model with Transformer, Pooling, Dense and Normalize only").into())
    }

    pub(crate) fn pooling(&self) -> Pooling {
        self.pooling
    }

    pub(crate) fn normalises(&self) -> bool {
        self.normalise
    }

    /// Width of the vectors that come out.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// [B, T, D] in any type -> [B, width] in f32
    pub(crate) fn apply(&self, hidden: &Tensor, batch: &TokenBatch) -> Result<Tensor> {
        let mut x = self.pooling.apply(&hidden.to_dtype(DType::F32)?, batch)?;
        for (linear, activation) in &self.dense {
            x = activation.apply(&linear.apply(&x)?)?;
        }
        if self.normalise { normalised(&x) } else { Ok(x) }
    }
}

/// Rows scaled to length 1; a row of zeros stays. [B, D] -> [B, D]
pub(crate) fn normalised(x: &Tensor) -> Result<Tensor> {
    let lengths = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?; // [B, 1]
    Ok(x.broadcast_div(&lengths.maximum(1e-12)?)?)
}

/// Rows of a table by token id. [B, T] -> [B, T, D]
pub(crate) fn look_up(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    ops::embedding(ids, table)
}
