//! Pictures of items: from the bytes of a jpeg, png or webp to the pixels that a model's `preprocessor_config.json` asks
//! for.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{ImageReader, Limits};
use rayon::prelude::*;
use serde::Deserialize;
use sidereal_core::artifact::{sha256_bytes, sha256_file};
use sidereal_core::{Attribute, Error, Items, Result};
use sidereal_nn::pretrained::ModelFolder;

/// Widest and highest picture that is read.
const MAX_SIDE: u32 = 16_384;
/// Most memory that a picture may take when it is read.
const MAX_PICTURE_BYTES: u64 = 512 << 20;
/// Largest file.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Endings that are looked for in a folder of pictures.
const ENDINGS: &[&str] = &["jpg", "jpeg", "png", "webp"];

/// How pictures become pixels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PictureRules {
    side: usize,
    filter: FilterType,
    scale: f32,
    mean: [f32; 3],
    deviation: [f32; 3],
}

#[derive(Deserialize)]
#[serde(default)]
struct Config {
    do_resize: bool,
    size: serde_json::Value,
    resample: u32,
    do_center_crop: bool,
    do_rescale: bool,
    rescale_factor: f32,
    do_normalize: bool,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

impl Default for Config {
    fn default() -> Self {
        Self {
            do_resize: true,
            size: serde_json::Value::Null,
            resample: 3,
            do_center_crop: false,
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        }
    }
}

impl PictureRules {
    /// Reads `preprocessor_config.json`; the model wants pictures of `side` by `side`.
    pub(crate) fn load(folder: &ModelFolder, side: usize) -> Result<Self> {
        let name = "preprocessor_config.json";
        let place = folder.path(name).display().to_string();
        if !folder.has(name) {
            return Err(Error::input(
                place,
                "the model does not say how pictures are prepared",
                "download this file with it",
            ));
        }
        let config: Config = folder.json(name)?;
        let refuse = |problem: String| {
            Err(Error::input(&place, problem, "use a model that scales pictures to a square of its own size"))
        };
        let sides = ["height", "width"].map(|key| config.size.get(key).and_then(serde_json::Value::as_u64));
        if !config.do_resize || config.do_center_crop || sides != [Some(side as u64); 2] {
            return refuse(format!("it does not resize to {side} by {side}"));
        }
        // The numbers of PIL.
        let filter = match config.resample {
            0 => FilterType::Nearest,
            1 => FilterType::Lanczos3,
            2 => FilterType::Triangle,
            3 => FilterType::CatmullRom,
            other => return refuse(format!("it resamples by method {other}, which is not known")),
        };
        if config.image_std.iter().any(|deviation| deviation.is_nan() || *deviation <= 0.0) {
            return refuse("a deviation in image_std is not above 0".to_owned());
        }
        let scale = if config.do_rescale { config.rescale_factor } else { 1.0 };
        let (mean, deviation) =
            if config.do_normalize { (config.image_mean, config.image_std) } else { ([0.0; 3], [1.0; 3]) };
        Ok(Self { side, filter, scale, mean, deviation })
    }

    /// S.
    pub(crate) fn side(&self) -> usize {
        self.side
    }

    /// [3, S, S]; transparency is dropped.
    pub(crate) fn pixels(&self, bytes: &[u8]) -> Result<Vec<f32>> {
        let wrong = |problem: String| Error::input("picture", problem, "give a jpeg, png or webp that a browser shows");
        let mut reader =
            ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| wrong(e.to_string()))?;
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        limits.max_alloc = Some(MAX_PICTURE_BYTES);
        reader.limits(limits);
        let picture = reader.decode().map_err(|e| wrong(e.to_string()))?.to_rgb8();
        let side = self.side as u32;
        let picture = if picture.dimensions() == (side, side) {
            picture
        } else {
            image::imageops::resize(&picture, side, side, self.filter)
        };
        let (values, plane) = (picture.as_raw(), self.side * self.side);
        let pixel = |i: usize| {
            let channel = i / plane;
            let value = f32::from(values[i % plane * 3 + channel]);
            (value * self.scale - self.mean[channel]) / self.deviation[channel]
        };
        Ok((0..3 * plane).map(pixel).collect())
    }
}

/// The bytes of a picture's file.
pub(crate) fn read_picture(path: &Path) -> Result<Vec<u8>> {
    let about = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if about.len() > MAX_FILE_BYTES {
        let problem = format!("{} bytes are more than a picture may have ({MAX_FILE_BYTES})", about.len());
        return Err(Error::input(path.display().to_string(), problem, "scale it down"));
    }
    std::fs::read(path).map_err(|e| Error::io("read", path, e))
}

/// One hash of all pictures, in the order of the items.
///
/// # Errors
/// A file that cannot be read.
pub fn pictures_digest(paths: &[Option<PathBuf>]) -> Result<String> {
    let digest = |path: &Option<PathBuf>| path.as_ref().map_or(Ok(String::new()), |path| sha256_file(path));
    let digests: Vec<String> = paths.par_iter().map(digest).collect::<Result<_>>()?;
    Ok(sha256_bytes(digests.join("\n").as_bytes()))
}

/// Where the items' pictures are: a column with paths, or a folder with a file for each item id.
///
/// Paths in a column may be relative to the working folder. `None` where an item has no picture, `[N]`.
///
/// # Errors
/// Neither a column nor a folder.
pub fn picture_paths(items: &Items, source: &str) -> Result<Vec<Option<PathBuf>>> {
    if let Some(Attribute::Text(paths)) = items.attributes().get(source) {
        let path =
            |path: &Option<String>| path.as_deref().map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from);
        return Ok(paths.iter().map(path).collect());
    }
    let folder = Path::new(source);
    if !folder.is_dir() {
        let columns: Vec<&str> = items
            .attributes()
            .iter()
            .filter(|(_, c)| matches!(c, Attribute::Text(_)))
            .map(|(name, _)| name.as_str())
            .collect();
        let problem = format!("{source:?} is neither a folder nor a text column of the items");
        let mend = format!(
            "name a folder with a file ITEM_ID.jpg for each item, or one of the columns: {}",
            columns.join(", ")
        );
        return Err(Error::config("--images", problem, mend));
    }
    let find = |id: &str| {
        // An id is a name, not a path.
        let plain = !id.contains(['/', '\\']) && !id.starts_with('.');
        let mut files = ENDINGS.iter().map(|ending| folder.join(format!("{id}.{ending}")));
        if plain { files.find(|path| path.is_file()) } else { None }
    };
    Ok(items.ids().iter().map(|id| find(id.as_str())).collect())
}
