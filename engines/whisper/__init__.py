"""Speech recognition by Whisper on CTranslate2."""
