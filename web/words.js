/**
 * What our scripts say, in English and in the layout of ComfyUI's locale files (locales/, written from here by
 * words/write_locales.py), and in the language that the page has.
 *
 * The page itself translates settings and commands. It hands its own words to nobody, so those of dialogs are
 * looked up here.
 */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'

export const ENGLISH = {
    "main": {
        "menuLabels": {
            "Convert AnimateDiff nodes": "Convert AnimateDiff nodes"
        },
        "settingsCategories": {
            "AnimateDiff Flipbook": "AnimateDiff Flipbook"
        },
        "animateDiffFlipbook": {
            "offer": "This graph holds nodes of another AnimateDiff pack that this ComfyUI does not have: {names}. AnimateDiff Flipbook can turn them into its own. You see what changes, and Ctrl-Z takes it back.",
            "more": "{count} more",
            "notNow": "Not now",
            "later": "Later: Edit > Convert AnimateDiff nodes",
            "convert": "Convert",
            "converted": "Converted",
            "convertedCount": "Nodes of other packs that were converted: {count}. Ctrl-Z brings them back.",
            "nothing": "Nothing to convert: this graph holds no nodes of another AnimateDiff pack.",
            "otherGraph": "Another graph was opened in the meantime, so nothing was changed.",
            "noAnswer": "The server answered {status}.",
            "lost": "Lost ({count})",
            "changed": "Changed ({count})",
            "left": "Left to another pack ({count})",
            "mapped": "Mapped one to one ({count})",
            "copy": "Copy",
            "close": "Close"
        }
    },
    "commands": {
        "AnimateDiffFlipbook_ConvertNodes": {
            "label": "Convert AnimateDiff nodes"
        }
    },
    "settings": {
        "AnimateDiff Flipbook_Preview_Fps": {
            "name": "Frames per second of the moving preview"
        },
        "AnimateDiff Flipbook_Preview_Style": {
            "name": "Preview of clips while they are sampled",
            "tooltip": "Needs ComfyUI's live previews. A contact sheet shows up to 16 frames side by side.",
            "options": {
                "moving": "moving",
                "contact sheet": "contact sheet",
                "off": "off"
            }
        }
    }
}
